"""Which rank takes longest, and by how much: arithmetic on the times of ranks.

It must not know what the ranks do in that time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.results.record import Straggler


def straggler(
    window_s: Sequence[Sequence[float]], alone_s: Sequence[float | None]
) -> Straggler | None:
    """Return the rank that takes longest and how much longer than the mean; null: one rank.

    Args:
        window_s: Of each rank, then of each window: collectives make them all but equal. Unit:
            seconds.
        alone_s: What each rank took for steps in which none waited for another; null: not known.
            Unit: seconds.
    """
    if len(window_s) == 1:
        return None
    known = [seconds for seconds in alone_s if seconds is not None]
    if len(known) == len(window_s):
        return _slowest(known, from_windows=False)
    return _slowest([math.fsum(times) for times in window_s], from_windows=True)


def _slowest(seconds: Sequence[float], *, from_windows: bool) -> Straggler:
    mean = math.fsum(seconds) / len(seconds)
    longest = max(seconds)
    return Straggler(
        rank=seconds.index(longest),
        share=longest / mean - 1,
        source="windows" if from_windows else "steps without exchange",
    )
