"""What the clock of most scripts would have said of a run, beside what it did.

Such a clock is read before and after every step and waits for nothing. This module knows records,
and not how the clock was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.results.record import Launch

MISLEADS = 0.05
"""Share by which it may read too much before it counts as misleading."""


@dataclass(frozen=True)
class NaiveReading:
    """Both clocks over one and the same block of steps, so the machine was the same to both."""

    samples_per_s: float
    """By the naive clock."""
    true_samples_per_s: float
    """Until the device had finished."""
    step_ms_median: float | None
    """By the naive clock."""
    true_step_ms: float
    steps: int
    """Of that block."""

    @property
    def ratio(self) -> float:
        """Return the naive throughput over the true one."""
        return self.samples_per_s / self.true_samples_per_s

    @property
    def misleads(self) -> bool:
        """Return whether the naive clock says something else than the true one."""
        return self.ratio > 1 + MISLEADS


def naive_reading(launches: Sequence[Launch]) -> NaiveReading | None:
    """Return both clocks of the first launch that was read with a naive one; null: none was."""
    for launch in launches:
        found = launch.diagnostics
        if found is None or found.naive_samples_per_s is None:
            continue
        if found.naive_fenced_samples_per_s is None:
            continue
        samples_per_step = launch.samples_per_window / launch.steps_per_window
        return NaiveReading(
            samples_per_s=found.naive_samples_per_s,
            true_samples_per_s=found.naive_fenced_samples_per_s,
            step_ms_median=found.naive_step_ms_median,
            steps=launch.steps_per_window,
            true_step_ms=1e3 * samples_per_step / found.naive_fenced_samples_per_s,
        )
    return None
