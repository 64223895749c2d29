"""What the device shows between windows (memory, energy, clock), and what that says of a launch.

A reading is taken when a window's time has been read, never inside one. This module knows no
device: where the figures come from stands in the words that came with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from bench.results.record import Clocks, Energy


@dataclass(frozen=True)
class Reading:
    """The device at one moment; null: it does not tell."""

    at_s: float = 0.0
    """By the launch's clock. Unit: seconds."""
    memory_bytes: int | None = None
    """In use by this process."""
    joules: float | None = None
    """Of a cumulative counter."""
    mhz: float | None = None
    throttled: Mapping[str, int] = field(default_factory=dict)
    """How often each reason for running slower was met, since some fixed moment."""
    calculation_us: float | None = None
    """What a fixed calculation took on the device, at once. Unit: microseconds."""


class Around(NamedTuple):
    """The readings before and after one window; a later window may share the first of them."""

    before: Reading
    after: Reading


class Gauge(Protocol):
    """Reads the device. It is called between windows, never inside one."""

    def read(self) -> Reading:
        """Return what the device shows now, without disturbing it for long."""


class NoGauge:
    """The gauge of a target that shows nothing."""

    def read(self) -> Reading:
        """Return a reading that tells nothing."""
        return Reading()


NO_GAUGE: Gauge = NoGauge()


class Meter(Protocol):
    """What has to be known of an energy counter besides its figures."""

    @property
    def source(self) -> str | None:
        """Which counter, and what it covers; null: there is none."""

    @property
    def period_s(self) -> float:
        """Time between two updates of the counter. Unit: seconds."""

    @property
    def reason(self) -> str | None:
        """Why there are no figures; null: there are."""


def memory_bytes(readings: Sequence[Reading]) -> list[int]:
    """Return the memory in use at each of these moments; empty where one of them is unknown."""
    told = [reading.memory_bytes for reading in readings]
    return [value for value in told if value is not None] if None not in told else []


def after_each(windows: Sequence[Around]) -> list[Reading]:
    """Return the reading after each window."""
    return [around.after for around in windows]


def throughout(windows: Sequence[Around]) -> list[Reading]:
    """Return the reading before the first window, and those after each."""
    return [around.before for around in windows[:1]] + after_each(windows)


def clock_mhz(windows: Sequence[Around]) -> list[float]:
    """Return the clock after each window; empty where one of them is unknown. Unit: MHz."""
    told = [around.after.mhz for around in windows]
    return [value for value in told if value is not None] if None not in told else []


def calculation_us(windows: Sequence[Around]) -> list[float]:
    """Return what the fixed calculation took after each window; empty where one is unknown."""
    told = [around.after.calculation_us for around in windows]
    return [value for value in told if value is not None] if None not in told else []


def clocks(windows: Sequence[Around], source: str | None) -> Clocks | None:
    """Return the record's summary of the clock over windows; null: the device tells none.

    Args:
        windows: The readings around each.
        source: Where the figures come from; null: there are none.
    """
    rates = clock_mhz(windows)
    paces = calculation_us(windows)
    if source is None and not paces:
        return None
    met = dict.fromkeys(
        reason
        for around in windows
        for reason, count in around.after.throttled.items()
        if count > around.before.throttled.get(reason, 0)
    )
    return Clocks(
        source=source,
        mhz_min=min(rates, default=None),
        mhz_max=max(rates, default=None),
        throttled=list(met),
        calculation_us_min=min(paces, default=None),
        calculation_us_max=max(paces, default=None),
    )


def energy(windows: Sequence[Around], window_s: Sequence[float], meter: Meter) -> Energy:
    """Return the energy over windows, and over the short pauses that follow them.

    The reading that ends a window begins the next, so that neither the error of a counter that is
    updated now and then nor anything that was used between two windows adds up to a bias; voided
    windows are left out.

    Args:
        windows: The readings around each.
        window_s: Their times. Unit: seconds.
        meter: What is known of the counter.
    """
    if meter.reason is not None or meter.source is None:
        return Energy(reason=meter.reason or "the device has no energy counter")
    if min(window_s) < meter.period_s:
        return Energy(
            source=meter.source,
            reason=f"a window of {min(window_s):.3g} s is shorter than the {meter.period_s:.3g} s "
            "between two updates of the counter: raise measure.budget_s or lower measure.windows",
        )
    steps = []
    for before, after in windows:
        if before.joules is None or after.joules is None:
            return Energy(source=meter.source, reason="a reading of the counter is missing")
        steps.append(after.joules - before.joules)
    joules = math.fsum(steps)
    seconds = math.fsum(after.at_s - before.at_s for before, after in windows)
    if joules <= 0:
        return Energy(
            source=meter.source, reason=f"the counter did not move over {seconds:.3g} s of windows"
        )
    return Energy(joules=joules, seconds=seconds, source=meter.source)


def energy_of_all(counters: Sequence[Energy]) -> Energy:
    """Return the energy of all devices: a sum, or the first reason why there is none.

    Args:
        counters: One each: a counter that several ranks read is given once.

    Raises:
        ValueError: there is none.
    """
    if not counters:
        raise ValueError("no rank told its energy, nor why there is none")
    for one in counters:
        if one.reason is not None:
            return one
    sources = dict.fromkeys(one.source for one in counters if one.source is not None)
    return Energy(
        joules=math.fsum(one.joules for one in counters if one.joules is not None),
        seconds=max(one.seconds for one in counters if one.seconds is not None),
        source="; ".join(sources),
    )


def clocks_of_all(ranks: Sequence[Clocks]) -> Clocks | None:
    """Return the extremes of all ranks' clocks, and what held back any; null: none tells."""
    if not ranks:
        return None
    return Clocks(
        source=ranks[0].source,
        mhz_min=min((one.mhz_min for one in ranks if one.mhz_min is not None), default=None),
        mhz_max=max((one.mhz_max for one in ranks if one.mhz_max is not None), default=None),
        throttled=list(dict.fromkeys(reason for one in ranks for reason in one.throttled)),
        calculation_us_min=min(
            (one.calculation_us_min for one in ranks if one.calculation_us_min is not None),
            default=None,
        ),
        calculation_us_max=max(
            (one.calculation_us_max for one in ranks if one.calculation_us_max is not None),
            default=None,
        ),
    )
