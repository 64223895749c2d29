"""What the clock of most scripts would have said of a run, beside what its windows say.

Such a clock is read before and after every step and waits for nothing. This module knows records,
and not how the clock was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.results.record import Launch

MISLEADS = 0.05
"""Share by which it may differ from the windows before it counts as misleading: two passes of one
launch differ by a few per cent on a machine that others use too."""


@dataclass(frozen=True)
class NaiveReading:
    """Both clocks over one launch."""

    samples_per_s: float
    """By the naive clock."""
    true_samples_per_s: float
    """By the windows of the same launch."""
    step_ms_median: float | None
    """By the naive clock; null: an older record."""
    true_step_ms: float
    disturbed: bool
    """Something else used the machine while the windows ran, so a difference may come from that."""

    @property
    def ratio(self) -> float:
        """Return the naive throughput over the true one."""
        return self.samples_per_s / self.true_samples_per_s

    @property
    def misleads(self) -> bool:
        """Return whether the naive clock says something else than the true one."""
        return not 1 - MISLEADS <= self.ratio <= 1 + MISLEADS


def naive_reading(launches: Sequence[Launch]) -> NaiveReading | None:
    """Return both clocks of the first launch that was read with a naive one; null: none was."""
    for launch in launches:
        found = launch.diagnostics
        if found is not None and found.naive_samples_per_s is not None:
            steps = launch.steps_per_window * len(launch.window_s[0])
            return NaiveReading(
                samples_per_s=found.naive_samples_per_s,
                true_samples_per_s=launch.samples_per_s,
                step_ms_median=found.naive_step_ms_median,
                true_step_ms=1e3 * launch.slowest_s / steps,
                disturbed=bool(launch.noise.reasons),
            )
    return None
