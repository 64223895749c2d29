"""What a short series of numbers says of itself: a line through it, and its best split in two.

Pure arithmetic on plain numbers, oldest first. It must not know whether they are times or bytes,
and what is too much is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Line(NamedTuple):
    """The least-squares line through a series."""

    slope: float
    """Per value."""
    slope_error: float
    """Standard error of the slope; infinite with fewer than three values."""
    explained: float
    """Share of the squared scatter that the line accounts for; 0 for a constant series."""


class Split(NamedTuple):
    """The cut of a series into two constant parts that leaves the least squared scatter."""

    at: int
    """Values before the cut."""
    before: float
    """Mean of the values before it."""
    after: float
    """Mean of the values from it on."""
    explained: float
    """Share of the squared scatter that the two means account for; 0 for a constant series."""

    @property
    def change(self) -> float:
        """The mean after the cut relative to the mean before it: 0.05 is 5 % more."""
        return self.after / self.before - 1


def line(values: Sequence[float]) -> Line:
    """Return the least-squares line through a series of equal steps.

    Raises:
        ValueError: there are fewer than two values.
    """
    count = len(values)
    if count < 2:  # noqa: PLR2004 - two points make a line
        raise ValueError(f"{count} values have no slope")
    mean = _mean(values)
    middle = (count - 1) / 2
    spread = math.fsum((i - middle) ** 2 for i in range(count))
    slope = math.fsum((i - middle) * (v - mean) for i, v in enumerate(values)) / spread
    total = _scatter(values)
    rest = math.fsum((v - mean - slope * (i - middle)) ** 2 for i, v in enumerate(values))
    freedom = count - 2
    return Line(
        slope=slope,
        slope_error=math.sqrt(rest / freedom / spread) if freedom else math.inf,
        explained=_explained(total, rest, values),
    )


def split(values: Sequence[float], at: int) -> Split:
    """Return the series cut before value `at`.

    Raises:
        ValueError: one of the two parts would be empty.
    """
    if not 0 < at < len(values):
        raise ValueError(f"{len(values)} values cannot be cut before value {at}")
    before, after = values[:at], values[at:]
    return Split(
        at=at,
        before=_mean(before),
        after=_mean(after),
        explained=_explained(_scatter(values), _scatter(before) + _scatter(after), values),
    )


def best_split(values: Sequence[float], least: int) -> Split:
    """Return the split with the least scatter around the means of its parts.

    Args:
        values: The series.
        least: Values that either part must have: few of them differ from the rest by chance.

    Raises:
        ValueError: the series is too short for two such parts.
    """
    cuts = range(least, len(values) - least + 1)
    if least < 1 or not cuts:
        raise ValueError(f"{len(values)} values have no two parts of {least}")
    return max((split(values, at) for at in cuts), key=lambda found: found.explained)


def grouped(values: Sequence[float], most: int) -> list[float]:
    """Return means of neighbours: of so many that no more than `most` remain.

    Values that do not fill the first group are left out.
    """
    size = -(-len(values) // most)
    first = len(values) % size
    return [_mean(values[i : i + size]) for i in range(first, len(values), size)]


def _explained(total: float, rest: float, values: Sequence[float]) -> float:
    # Rounding must not make a pattern of a series that is constant.
    rounding = len(values) * (1e-9 * max(abs(v) for v in values)) ** 2
    return 0.0 if total <= rounding else max(0.0, 1 - rest / total)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _scatter(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.fsum((v - mean) ** 2 for v in values)
