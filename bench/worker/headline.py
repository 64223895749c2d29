"""The headline pass: first step, warm-up and windows of a built workload, with its evidence."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection
from dataclasses import dataclass

from bench.audit.evidence import Evidence
from bench.backends import host
from bench.backends.base import Backend, Counters, Device, World
from bench.measure import readings
from bench.measure.alignment import Alignment
from bench.measure.noise import NoiseMonitor
from bench.measure.target import ALONE, Peers
from bench.measure.turns import UNDIVIDED, Turns
from bench.measure.warm_up import WarmUp, first_step, warm_up
from bench.measure.windows import Measured, measure_windows, plan_windows
from bench.results.record import Clocks, Energy, Noise
from bench.scenarios.schema import Case
from bench.worker import actual
from bench.worker.building import Built
from bench.worker.gauges import DeviceGauge
from bench.worker.reporting import Reporter
from bench.workload.step import Step, TrainStep

_DIGITS_OF_A_DOUBLE = 13
"""Hexadecimal: 52 bits."""


@dataclass(frozen=True)
class Counts:
    """What the step has issued so far."""

    micro_batches: int
    samples: int
    updates: int
    skipped_updates: int | None
    """Null: nothing skips any."""


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
    peak_memory_bytes: int | None
    """Of the device, while windows were measured; null: not known of that time alone."""
    host_peak_rss_bytes: int | None
    """Of this process, over the same time; null as above."""
    energy: Energy | None
    """Over the clean windows; null: another rank reads the same counter."""
    clocks: Clocks | None

    @property
    def memory_bytes(self) -> list[int]:
        """Memory in use after each clean window; empty: not told."""
        return readings.memory_bytes(readings.after_each(self.measured.readings))

    def fallbacks(self) -> dict[str, int] | None:
        """Return the operators that ran on the host while windows were measured; null: unknown."""
        if self.after.fallbacks is None:
            return None
        before = self.before.fallbacks or {}
        grown = {name: count - before.get(name, 0) for name, count in self.after.fallbacks.items()}
        return {name: count for name, count in grown.items() if count > 0}


def measure(
    case: Case,
    built: Built,
    device: Device,
    alignment: Alignment,
    backend: Backend,
    world: World,
    peers: Peers,
    reporter: Reporter,
    turns: Turns = UNDIVIDED,
    cpus: Collection[int] | None = None,
) -> Headline:
    """Run the phases whose last one is timed.

    `cpus` are those of all ranks of this machine, where each is kept on its own; null: on any.

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
    monitor = NoiseMonitor(extra_pids=(os.getppid(),), cpus=cpus)
    others = device.disturbances()
    gauge = DeviceGauge(device)
    device.reset_peak_memory()
    rss_is_reset = host.reset_peak_rss()
    issued, before = _counts(step), device.counters()
    quiet, begin = monitor.snapshot(), time.perf_counter()
    measured = measure_windows(
        step,
        alignment,
        plan,
        peers=peers,
        progress=reporter,
        gauge=gauge,
        turns=turns,
        prefetched=prefetched,
    )
    measure_s = time.perf_counter() - begin
    noise = monitor.between(quiet, monitor.snapshot())
    reasons = list(dict.fromkeys([*noise.reasons, *others, *device.disturbances()]))
    peak_memory_bytes = device.peak_memory_bytes()
    now = _counts(step)
    return Headline(
        first_step_s=first_step_s,
        loss_first=loss_first,
        loss_last=read_loss(step),
        warm=warm,
        measured=measured,
        measure_s=measure_s,
        noise=noise.model_copy(update={"reasons": reasons}),
        before=before,
        after=device.counters(),
        issued=Counts(
            micro_batches=now.micro_batches - issued.micro_batches,
            samples=now.samples - issued.samples,
            updates=now.updates - issued.updates,
            skipped_updates=None
            if now.skipped_updates is None or issued.skipped_updates is None
            else now.skipped_updates - issued.skipped_updates,
        ),
        peak_memory_bytes=peak_memory_bytes,
        host_peak_rss_bytes=host.peak_rss_bytes() if rss_is_reset else None,
        energy=gauge.energy(measured.readings, measured.window_s, world),
        clocks=gauge.clocks(measured.readings),
    )


def evidence_of(
    case: Case,
    built: Built,
    device: Device,
    headline: Headline,
    collectives: str | None,
    peers: Peers = ALONE,
) -> Evidence:
    """Collect what the audit looks at, before any diagnostic pass disturbs it."""
    training = case.knobs.task == "train"
    measured = headline.measured
    samples = len(measured.window_s) * measured.micro_batches_per_window * case.knobs.batch_size
    return Evidence(
        knobs=case.knobs,
        window_s=tuple(headline.measured.window_s),
        residual_s=tuple(headline.measured.residual_s),
        noise=headline.noise,
        memory_bytes=tuple(readings.memory_bytes(readings.throughout(measured.readings))),
        clocks=headline.clocks,
        clock_mhz=tuple(readings.clock_mhz(measured.readings)),
        calculation_us=tuple(readings.calculation_us(measured.readings)),
        samples_per_s=samples / math.fsum(measured.window_s),
        voided_windows=headline.measured.voided,
        windows_exhausted=headline.measured.exhausted,
        steady=headline.warm.steady,
        steady_reason=headline.warm.reason,
        micro_batches=headline.issued.micro_batches,
        samples=headline.issued.samples,
        batch_sizes=frozenset(built.step.batch_sizes),
        updates=headline.issued.updates if training else None,
        skipped_updates=headline.issued.skipped_updates,
        executions=headline.measured.executions,
        expected_executions=headline.measured.expected_executions,
        fallbacks=headline.fallbacks(),
        graph_breaks=headline.after.graph_breaks,
        recompiles=headline.after.recompiles,
        graphs_skipped=headline.after.graphs_skipped,
        moved_share=built.moved.share() if built.moved is not None else None,
        untrained=_untrained(built),
        weights_agree=_weights_agree(built, peers),
        shards_updates=built.engine.shards_updates,
        loss_first=headline.loss_first,
        loss_last=headline.loss_last,
        collectives=collectives,
        asked=actual.asked(case.knobs, built.engine, built.model, built.image_size),
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


def _untrained(built: Built) -> tuple[str, ...]:
    if built.moved is None or not isinstance(built.step, TrainStep):
        return ()
    return tuple(built.moved.untrained(built.step.optimizer))


def _weights_agree(built: Built, peers: Peers) -> bool | None:
    """Return whether all ranks have the same weights; null: nothing is trained, or by one only.

    Of a rank alone, whether its devices have, where these are several.
    """
    if built.moved is None:
        return None
    if peers is ALONE:
        return built.engine.copies_agree(built.model)
    # As many bits of the digest as a number keeps, which is what ranks can compare.
    number = float(int(built.moved.digest()[:_DIGITS_OF_A_DOUBLE], 16))
    return peers.most(number) == -peers.most(-number)


def _counts(step: Step) -> Counts:
    if not isinstance(step, TrainStep):
        return Counts(step.micro_batches, step.samples, 0, None)
    updates, skipped = step.counter.updates, step.skipped_updates()
    return Counts(step.micro_batches, step.samples, updates, skipped)
