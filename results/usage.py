"""What a number used: energy and the share of the device's peak, each with its source or a reason.

This module knows records and arithmetic. It reads no counter, and not where a figure is shown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.results.record import Energy, Launch, Peak, Record

_FEW_BITS = re.compile(r"(fp|float|f)[48]|mxfp|nvfp|u?int|[su][1-8]$")
"""Types of quantised products: their peak counts other work than the model's."""
_SPAN = (0.8, 1.25)
"""Time inside windows / time between the counter's readings: beyond, the joules are not theirs."""


@dataclass(frozen=True)
class Figure:
    """A figure and where it comes from, or why it is unknown."""

    value: float | None = None
    source: str | None = None
    reason: str | None = None


def flops_per_sample(launches: Sequence[Launch]) -> float | None:
    """Return the floating-point operations of a sample; null: no launch knows them."""
    known = (launch.flops_per_sample for launch in launches)
    return next((flops for flops in known if flops is not None), None)


def model_flops_utilisation(record: Record) -> Figure:
    """Return the model's FLOP/s on one device / the device's peak in the type of its products.

    Unknown where the products are quantised: a peak of another kind of product says nothing.
    """
    if record.statistics is None:
        return Figure(reason="there is no throughput")
    flops = flops_per_sample(record.launches)
    if flops is None:
        return Figure(reason="the FLOPs of a sample are not known")
    peak = _peak(record.launches)
    if isinstance(peak, str):
        return Figure(reason=peak)
    achieved = record.statistics.samples_per_s * flops / record.devices
    return Figure(achieved / peak.flops_per_s, source=cited(peak))


def cited(peak: Peak) -> str:
    """Return a peak with what it is of and where it was published."""
    return f"{scaled(peak.flops_per_s)}FLOP/s, {peak.dtype}, {peak.device} ({peak.source})"


def energy_per_sample(launches: Sequence[Launch]) -> Figure:
    """Return the joules of a sample, from the launches whose devices have a counter.

    The mean power between the counter's two readings x the time of the windows / the samples of
    all ranks in them.
    """
    joules, samples, sources, reasons = 0.0, 0, [], []
    for launch in launches:
        used = _energy(launch)
        if isinstance(used, str):
            reasons.append(used)
            continue
        joules += used
        samples += launch.samples_per_window * len(launch.window_s[0])
        sources.append((launch.energy and launch.energy.source) or "a counter that is not named")
    if len(different := list(dict.fromkeys(sources))) > 1:
        return Figure(reason=f"its launches read different counters: {', '.join(different)}")
    if not sources:
        return Figure(reason=reasons[0] if reasons else "no launch was measured")
    partly = f" in {len(sources)} of {len(launches)} launches" if reasons else ""
    return Figure(joules / samples, source=f"{sources[0]}{partly}")


def scaled(value: float) -> str:
    """Return a count with four digits and the prefix of its unit: `7.464 G`."""
    power = min(max(int(math.log10(value) // 3), 0), 5) if value > 0 else 0
    return f"{value / 1000**power:.4g} {('', 'k', 'M', 'G', 'T', 'P')[power]}"


def _peak(launches: Sequence[Launch]) -> Peak | str:
    """Return the one peak of all launches, or why there is none to compare with."""
    if any(one.inspection and one.inspection.matmul_format == "fp8" for one in launches):
        return "its products are quantised, and a peak of full ones says nothing about them"
    peaks = {(p.flops_per_s, p.dtype): p for p in (one.peak for one in launches) if p is not None}
    if not peaks:
        return "no peak is known of this device in the type of its products"
    if len(peaks) > 1:
        return f"its launches computed in different types: {', '.join(t for _, t in peaks)}"
    (peak,) = peaks.values()
    if _FEW_BITS.match(peak.dtype):
        return f"its products are quantised ({peak.dtype})"
    return peak


def _energy(launch: Launch) -> float | str:
    """Return the joules of a launch's windows, or why they are unknown."""
    energy: Energy | None = launch.energy
    if energy is None:
        return "an older version measured it, without energy"
    if energy.joules is None:
        return energy.reason or "no reason was given"
    if energy.seconds is None:
        return energy.joules
    share = launch.slowest_s / energy.seconds
    if not _SPAN[0] <= share <= _SPAN[1]:
        return (
            f"the counter was read over {energy.seconds:.1f} s, and the windows are "
            f"{launch.slowest_s:.1f} s of that"
        )
    return energy.joules * share
