"""What the launches of a run say together: throughput and its interval.

The launch is the unit: its value is a ratio of totals, and every interval is a t interval on the
logarithms of launch values. This module knows nothing of how a launch was timed, and decides
nothing about what a number is worth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from bench.results.record import Launch, Statistics
from bench.scenarios.schema import Measure

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it; null bounds: one value has no interval."""

    estimate: float
    low: float | None = None
    high: float | None = None
    degrees_of_freedom: int | None = None


def t_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the geometric mean of positive values with the t interval of their logarithms.

    Raises:
        ValueError: no value, or one that is not positive and finite.
    """
    return stein_interval(values, len(values), confidence)


def stein_launches(
    pilot: Sequence[float], target_pct: float, cap: int, confidence: float = CONFIDENCE
) -> int:
    """Return how many launches in all make the interval as narrow as asked (Stein's first stage).

    The variance and its degrees of freedom are the pilot's: looking again as launches come in, and
    stopping when the interval happens to be tight, would promise more than it holds.

    Args:
        pilot: Values of the launches so far, at least two.
        target_pct: Half-width to reach, relative to the estimate. Unit: percent.
        cap: The most launches to ask for. Where it bites, the target is not reached.
        confidence: Of the interval.

    Raises:
        ValueError: fewer than two launches have no variance.
    """
    if len(pilot) < 2:  # noqa: PLR2004
        raise ValueError("a pilot needs at least two launches to have a variance")
    spread = _deviation(logarithms(pilot))
    t = t_quantile(len(pilot) - 1, (1 + confidence) / 2)
    needed = (t * spread / _half_width(target_pct)) ** 2
    return max(len(pilot), min(cap, math.ceil(needed)))


def stein_interval(values: Sequence[float], pilot: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the interval of Stein's second stage: mean of all values, variance of the pilot.

    Args:
        values: Values of all launches, the pilot's first.
        pilot: How many of them made the pilot; fewer values than that are all pilot.
        confidence: Of the interval.

    Raises:
        ValueError: no value, or one that is not positive and finite.
    """
    logs = logarithms(values)
    first = logs[:pilot]
    centre = math.fsum(logs) / len(logs)
    if len(first) < 2:  # noqa: PLR2004
        return Interval(math.exp(centre))
    freedom = len(first) - 1
    half = t_quantile(freedom, (1 + confidence) / 2) * _deviation(first) / math.sqrt(len(logs))
    return Interval(math.exp(centre), math.exp(centre - half), math.exp(centre + half), freedom)


def wanted_launches(launches: Sequence[Launch], measure: Measure) -> int:
    """Return how many launches a run needs, as far as those so far tell.

    The protocol's own number; with a precision target, once that many are there, what Stein's rule
    says of them: the later ones do not change the answer.

    Args:
        launches: In the order in which they were run.
        measure: The protocol.
    """
    pilot = launches[: measure.launches]
    if measure.precision_target is None or len(pilot) < measure.launches:
        return measure.launches
    values = [launch.samples_per_s for launch in pilot]
    return stein_launches(values, measure.precision_target, measure.max_launches)


def summarise(launches: Sequence[Launch], measure: Measure) -> Statistics:
    """Return the figures of a run, by the method that its protocol asked for.

    Raises:
        ValueError: a run without a launch has no figures.
    """
    if not launches:
        raise ValueError("a run without a launch has no figures")
    values = [launch.samples_per_s for launch in launches]
    target = measure.precision_target
    pilot = len(values) if target is None else measure.launches
    interval = stein_interval(values, pilot)
    total_s = sum(launch.slowest_s for launch in launches)
    steps = sum(launch.steps_per_window * len(launch.window_s[0]) for launch in launches)
    return Statistics(
        samples_per_s=interval.estimate,
        samples_per_s_low=interval.low,
        samples_per_s_high=interval.high,
        confidence=CONFIDENCE,
        step_ms=1e3 * total_s / steps,
        launches=len(values),
        degrees_of_freedom=interval.degrees_of_freedom,
        method="fixed" if target is None else "stein",
        precision_reached=None if target is None else _reaches(interval, target),
    )


def logarithms(values: Sequence[float]) -> list[float]:
    """Return the logarithms of throughputs or of their ratios.

    Raises:
        ValueError: no value, or one that is not positive and finite.
    """
    if len(values) == 0 or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"an interval needs positive, finite values, not {list(values)}")
    return [math.log(value) for value in values]


@functools.lru_cache(maxsize=256)
def t_quantile(freedom: float, probability: float) -> float:
    """Return Student's t below which a share of its distribution lies."""
    return float(stdtrit(freedom, probability))


def _deviation(logs: Sequence[float]) -> float:
    centre = math.fsum(logs) / len(logs)
    return math.sqrt(math.fsum((x - centre) ** 2 for x in logs) / (len(logs) - 1))


def _half_width(target_pct: float) -> float:
    return math.log1p(target_pct / 100)


def _reaches(interval: Interval, target_pct: float) -> bool:
    if interval.high is None:
        return False
    # The last launch of Stein's rule may land exactly on the target.
    return math.log(interval.high / interval.estimate) <= _half_width(target_pct) * (1 + 1e-9)
