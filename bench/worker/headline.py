"""The headline pass: first step, warm-up and windows of a built workload, with its evidence."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from bench.audit.evidence import Evidence
from bench.backends.base import Backend, Counters, Device
from bench.measure.alignment import Alignment
from bench.measure.noise import NoiseMonitor
from bench.measure.target import Peers
from bench.measure.warm_up import WarmUp, first_step, warm_up
from bench.measure.windows import Measured, measure_windows, plan_windows
from bench.results.record import Noise
from bench.scenarios.schema import Case
from bench.worker import actual
from bench.worker.building import Built
from bench.worker.reporting import Reporter
from bench.workload.step import Step, TrainStep


@dataclass(frozen=True)
class Counts:
    """What the step has issued so far."""

    micro_batches: int
    samples: int
    updates: int


@dataclass(frozen=True)
class Headline:
    """What the headline pass of one rank found."""

    first_step_s: float
    loss_first: float | None
    loss_last: float | None
    warm: WarmUp
    measured: Measured
    measure_s: float
    noise: Noise
    before: Counters
    after: Counters
    issued: Counts
    """While windows were measured, voided ones included."""

    def fallbacks(self) -> dict[str, int]:
        """Return the operators that ran on the host while windows were measured."""
        grown = {
            name: count - self.before.fallbacks.get(name, 0)
            for name, count in self.after.fallbacks.items()
        }
        return {name: count for name, count in grown.items() if count > 0}


def measure(
    case: Case,
    built: Built,
    device: Device,
    alignment: Alignment,
    backend: Backend,
    peers: Peers,
    reporter: Reporter,
) -> Headline:
    """Run the phases whose last one is timed.

    Raises:
        bench.measure.windows.NoCleanWindow: compilations voided every window.
    """
    step = built.step
    first_step_s = first_step(step, alignment, progress=reporter)
    loss_first = read_loss(step)
    prefetched = backend.prefetched(case.knobs)
    warm = warm_up(step, alignment, case.measure, prefetched, peers=peers, progress=reporter)
    plan = plan_windows(case.measure, warm.period_s, backend.least_periods(case.knobs))
    reporter.planned(plan.periods_per_window, warm.period_s)
    # Our parent, or torchrun's agent, has started all the other ranks.
    monitor = NoiseMonitor(extra_pids=(os.getppid(),))
    issued, before = _counts(step), device.counters()
    quiet, begin = monitor.snapshot(), time.perf_counter()
    measured = measure_windows(step, alignment, plan, peers=peers, progress=reporter)
    measure_s = time.perf_counter() - begin
    noise = monitor.between(quiet, monitor.snapshot())
    now = _counts(step)
    return Headline(
        first_step_s=first_step_s,
        loss_first=loss_first,
        loss_last=read_loss(step),
        warm=warm,
        measured=measured,
        measure_s=measure_s,
        noise=noise,
        before=before,
        after=device.counters(),
        issued=Counts(
            micro_batches=now.micro_batches - issued.micro_batches,
            samples=now.samples - issued.samples,
            updates=now.updates - issued.updates,
        ),
    )


def evidence_of(
    case: Case, built: Built, device: Device, headline: Headline, collectives: str | None
) -> Evidence:
    """Collect what the audit looks at, before any diagnostic pass disturbs it."""
    training = case.knobs.task == "train"
    return Evidence(
        knobs=case.knobs,
        window_s=tuple(headline.measured.window_s),
        residual_s=tuple(headline.measured.residual_s),
        noise=headline.noise,
        voided_windows=headline.measured.voided,
        windows_exhausted=headline.measured.exhausted,
        steady=headline.warm.steady,
        steady_reason=headline.warm.reason,
        micro_batches=headline.issued.micro_batches,
        samples=headline.issued.samples,
        batch_sizes=frozenset(built.step.batch_sizes),
        updates=headline.issued.updates if training else None,
        executions=headline.measured.executions,
        expected_executions=headline.measured.expected_executions,
        fallbacks=headline.fallbacks(),
        moved_share=built.moved.share() if built.moved is not None else None,
        loss_first=headline.loss_first,
        loss_last=headline.loss_last,
        collectives=collectives,
        asked=actual.asked(case.knobs, built.model, built.image_size),
        actual=actual.actual(
            case.knobs,
            device=device,
            engine=built.engine,
            model=built.model,
            step=built.step,
            proven=built.proven,
        ),
    )


def read_loss(step: Step) -> float | None:
    """Return the last loss, waiting for it; null for inference."""
    if not isinstance(step, TrainStep):
        return None
    loss = step.output()
    return None if loss is None else float(loss.cpu())


def _counts(step: Step) -> Counts:
    updates = step.counter.updates if isinstance(step, TrainStep) else 0
    return Counts(step.micro_batches, step.samples, updates)
