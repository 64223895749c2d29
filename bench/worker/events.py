"""Progress from a rank to its parent: one JSON line per event on an inherited pipe."""

from __future__ import annotations

import os
from typing import Literal

from bench.results.record import Phase
from bench.worker.job import EVENTS_VARIABLE, Event


class Events:
    """Sends events, and remembers the phase for a failure's report."""

    def __init__(self, rank: int) -> None:
        self.phase = Phase.START
        self._rank = rank
        descriptor = os.environ.get(EVENTS_VARIABLE)
        self._descriptor = int(descriptor) if descriptor is not None else None

    def enter(self, phase: Phase) -> None:
        """Say that a phase begins."""
        self.phase = phase
        self.tell()

    def tell(
        self,
        done: int | None = None,
        total: int | None = None,
        samples_per_s: float | None = None,
        expected_s: float | None = None,
        rested_cpu_s: float | None = None,
    ) -> None:
        """Say how far the phase is. Never called inside a window."""
        self._send(
            Event(
                rank=self._rank,
                phase=self.phase,
                done=done,
                total=total,
                samples_per_s=samples_per_s,
                expected_s=expected_s,
                rested_cpu_s=rested_cpu_s,
            )
        )

    def wait(self, before: Literal["warm_up", "window", "end"]) -> None:
        """Say that this rank waits for its turn."""
        self._send(Event(rank=self._rank, phase=self.phase, waiting=before))

    def _send(self, event: Event) -> None:
        if self._descriptor is None:
            return
        line = event.model_dump_json(exclude_none=True) + "\n"
        os.write(self._descriptor, line.encode())
