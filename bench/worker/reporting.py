"""Turning the measuring code's progress into events for the parent."""

from __future__ import annotations

from bench.measure.alignment import Alignment
from bench.results.record import Phase
from bench.worker.events import Events


class Reporter:
    """A listener for the measuring code; it is called between windows only."""

    def __init__(self, events: Events, samples_per_micro_batch: int, alignment: Alignment) -> None:
        self._events = events
        self._samples_per_period = samples_per_micro_batch * alignment.period
        self._samples = 0
        self._seconds = 0.0
        self._periods_per_window = 0

    def planned(self, periods_per_window: int, period_s: float) -> None:
        """Tell how long a window of so many periods will take."""
        self._periods_per_window = periods_per_window
        self._events.tell(expected_s=periods_per_window * period_s)

    def phase(self, phase: Phase) -> None:
        """Tell the parent that a phase begins."""
        self._events.enter(phase)

    def warm_up(self, steps: int, seconds: float, period_s: float) -> None:
        """Tell how many steps the warm-up has run, and about how fast."""
        self._events.tell(done=steps, samples_per_s=self._samples_per_period / period_s)

    def window(self, done: int, planned: int, seconds: float) -> None:
        """Tell the running estimate of the launch: total samples / total time so far."""
        self._samples += self._periods_per_window * self._samples_per_period
        self._seconds += seconds
        self._events.tell(done=done, total=planned, samples_per_s=self._samples / self._seconds)

    def voided(self, count: int) -> None:
        """Tell that the launch is alive while windows are repeated."""
        self._events.tell()
