"""The median of paired ratios, its interval, and what that says about a tolerance.

Pure arithmetic: it must not know what was measured, or how.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
FEWEST = 6
"""Below six values no order statistics enclose the median with 95 % confidence."""


class Verdict(enum.StrEnum):
    """Where an interval lies against a tolerance."""

    INSIDE = "inside"
    OUTSIDE = "outside"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Median:
    """A sample's median and the interval of the population's; null bounds: too few values."""

    estimate: float
    low: float | None
    high: float | None

    def against(self, lower: float, upper: float) -> Verdict:
        """Return whether the whole interval lies inside, or wholly outside, of the bounds."""
        if self.low is None or self.high is None:
            return Verdict.UNDECIDED
        if lower <= self.low and self.high <= upper:
            return Verdict.INSIDE
        if self.high < lower or upper < self.low:
            return Verdict.OUTSIDE
        return Verdict.UNDECIDED


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Median:
    """Return the median with the interval that inverts the sign test.

    The interval is from the k-th smallest to the k-th largest value, with the largest k for which
    fewer than k heads in len(values) tosses of a fair coin have a probability of at most
    (1 - confidence) / 2. It assumes nothing of the values but that they are independent: one launch
    that the machine disturbed can stretch it but not shift it.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values have no median")
    ordered = sorted(values)
    k = _rank(len(ordered), (1 - confidence) / 2)
    if k == 0:
        return Median(statistics.median(ordered), None, None)
    return Median(statistics.median(ordered), ordered[k - 1], ordered[-k])


def _rank(count: int, tail: float) -> int:
    """Return the largest k with P(heads < k) <= tail, 0 where there is none."""
    k, below = 0, 0.0
    while k < count // 2:
        below += math.comb(count, k) / 2**count
        if below > tail:
            break
        k += 1
    return k
