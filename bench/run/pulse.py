"""The signs of life of a launch: when each rank was last heard of, and whether that is long ago."""

from __future__ import annotations

import math
import time

from bench.results.record import Phase
from bench.worker.job import Event

_HANG_FACTOR = 10.0
_STEADY_GROUPS = 2
"""Step groups after which a rank's silence is judged; before, only the case's timeout is."""
_STEPPING = (Phase.WARM_UP, Phase.MEASURE, Phase.HEALTH)


class Pulse:
    """When each rank was last heard of, how long it is usually silent, and what time is its own.

    Args:
        ranks: How many there are.
        hang_s: The least silence that is too long. Unit: seconds.
    """

    def __init__(self, ranks: int, hang_s: float) -> None:
        self._rested_s = 0.0
        self._rests_from: float | None = None
        self._heard: list[float | None] = [None] * ranks
        self._steps = [0] * ranks
        self._longest = 0.0
        self._hang_s = hang_s
        self.phases = [Phase.START] * ranks

    def hear(self, event: Event) -> None:
        """Note an event of a rank."""
        if not 0 <= event.rank < len(self.phases):
            return  # not from us: a program under test may write to any descriptor it inherits
        now = time.monotonic()
        self.phases[event.rank] = event.phase
        if event.rank == 0:
            self._rested_s = self.rested_s()
            self._rests_from = now if event.waiting is not None else None
        before = self._heard[event.rank]
        if event.phase not in _STEPPING or event.waiting is not None:
            self._heard[event.rank] = None
            return
        if event.expected_s is not None:
            self._longest = max(self._longest, event.expected_s)
        if event.done is not None:
            self._steps[event.rank] += 1
            if before is not None:
                self._longest = max(self._longest, now - before)
        self._heard[event.rank] = now

    def rested_s(self) -> float:
        """Return how long the launch has waited for its turns, which is another's time."""
        now = time.monotonic()
        return self._rested_s + (0.0 if self._rests_from is None else now - self._rests_from)

    def silent_rank(self) -> tuple[int, float] | None:
        """Return the rank heard least recently, and for how long it has been silent.

        Null: that is not too long.
        """
        # Until a rank steps steadily it may be compiling, which has no length to go by.
        stepping = [
            (heard, rank)
            for rank, heard in enumerate(self._heard)
            if heard is not None and self._steps[rank] >= _STEADY_GROUPS
        ]
        heard, rank = min(stepping, default=(math.inf, 0))
        silent_s = time.monotonic() - heard
        limit = max(self._hang_s, _HANG_FACTOR * self._longest)
        return (rank, silent_s) if silent_s > limit else None
