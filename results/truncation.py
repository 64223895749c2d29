"""How much of the beginning of a series to drop: the marginal standard error rule (MSER).

A pure function of numbers. It must not know whether they are chunks of a warm-up or windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def mser(values: Sequence[float], batch: int = 5) -> int | None:
    """Return how many leading values to drop so that the mean of the rest is known best.

    The values are averaged in batches, and the cut is put where the squared standard error of the
    mean of what remains, sum((y - mean)^2) / n^2, is least. At least two batches, and a quarter of
    them, always remain: the error of one or two values is small by chance. Values after the last
    whole batch are not looked at.

    Args:
        values: The series, oldest first, in any unit.
        batch: Values per batch mean; 5 is the customary choice (MSER-5).

    Returns:
        The number of values to drop, a multiple of `batch`. 0 when there are fewer than four
        batches, which is too few to tell. None when the best cut lies in the last half: the series
        has not settled.

    Raises:
        ValueError: `batch` is below 1.
    """
    if batch < 1:
        raise ValueError(f"batch={batch}: a batch mean needs at least one value")
    count = len(values) // batch
    if count < 4:  # noqa: PLR2004 - stated in the docstring
        return 0
    means = [math.fsum(values[i * batch : (i + 1) * batch]) / batch for i in range(count)]
    errors = [_squared_error(means[cut:]) for cut in range(count - max(2, count // 4) + 1)]
    # Rounding must not choose between cuts of a series that is constant.
    rounding = (1e-9 * max(abs(m) for m in means)) ** 2
    cut = next(i for i, error in enumerate(errors) if error <= min(errors) + rounding)
    return None if 2 * cut >= count else cut * batch


def _squared_error(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((v - mean) ** 2 for v in values) / len(values) ** 2
