"""Windows over a device whose every second is known, audited as a launch's would be."""

from __future__ import annotations

import dataclasses

from bench.audit.checks import audit
from bench.measure.alignment import Alignment
from bench.measure.windows import Measured, WindowPlan, measure_windows
from bench.results.record import CheckResult
from bench.scenarios.schema import Knobs
from tests.audit.honest import HONEST
from tests.measure.fakes import FakeClock, FakeTarget

HOST_S = 0.001
"""What issuing a micro-batch costs the host."""


class BusyHost(FakeTarget):
    """A device that works behind the host: a read waits for all that was issued before it."""

    def advance(self, micro_batches: int) -> None:
        super().advance(micro_batches)
        self.clock.spend(HOST_S * micro_batches)

    def residual(self) -> float:
        waited, self.pending_s = self.pending_s, 0.0
        self.clock.spend(waited)
        return waited


def caught(measured: Measured, batches_per_execution: int = 1) -> set[str]:
    """Return the names of the checks that fail over these windows."""
    evidence = dataclasses.replace(
        HONEST,
        knobs=Knobs.model_validate(
            {"batch_size": 8, "loader": {"batches_per_execution": batches_per_execution}}
        ),
        window_s=tuple(measured.window_s),
        residual_s=tuple(measured.residual_s),
        voided_windows=measured.voided,
        windows_exhausted=measured.exhausted,
        executions=measured.executions,
        expected_executions=measured.expected_executions,
        updates=60,
    )
    return {check.name for check in audit(evidence) if check.result is CheckResult.FAIL}


def windows(target: FakeTarget, alignment: Alignment, *, periods: int = 8) -> Measured:
    """Time three windows on the target's own clock."""
    plan = WindowPlan(periods_per_window=periods, windows=3)
    return measure_windows(target, alignment, plan, clock=target.clock)


def busy_host(**settings: object) -> BusyHost:
    """Return a new target with a clock of its own."""
    return BusyHost(FakeClock(), **settings)  # type: ignore[arg-type]
