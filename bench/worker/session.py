"""A launch from start to end, on every rank; rank 0 gathers the others and returns the launch."""

from __future__ import annotations

import gc
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.audit.checks import audit
from bench.audit.evidence import Evidence
from bench.backends import registry
from bench.backends.base import Device, World
from bench.measure.alignment import Alignment
from bench.measure.readings import clocks_of_all, energy_of_all
from bench.measure.stragglers import straggler
from bench.measure.target import Peers
from bench.results.record import (
    Check,
    CheckResult,
    Clocks,
    Compilation,
    Diagnostics,
    Energy,
    Inspection,
    Launch,
    Noise,
    Peak,
    Phase,
    Phases,
    RankPlace,
)
from bench.worker import building, diagnostics, headline, inspection, place
from bench.worker.building import Built
from bench.worker.events import Events
from bench.worker.headline import Headline
from bench.worker.job import Job
from bench.worker.peers import DistPeers, Where, meet
from bench.worker.reporting import Reporter
from bench.worker.turns import of_job
from bench.workload import flops
from bench.workload.flops import Flops


@dataclass(frozen=True)
class RankReport:
    """What one rank contributes; sent to rank 0 over the control plane."""

    window_s: list[float]
    peak_memory_bytes: int | None
    host_peak_rss_bytes: int | None
    energy: Energy | None
    clocks: Clocks | None
    checks: list[Check]
    place: RankPlace
    noise: Noise
    fallbacks: dict[str, int] | None
    alone_s: float | None = None
    """What a block of steps without the exchange between ranks took; null: not known."""


def run(job: Job, world: World, events: Events, import_s: float) -> Launch | None:
    """Measure one launch.

    Args:
        job: The launch.
        world: This process's place.
        events: Where progress goes.
        import_s: What importing torch took. Unit: seconds.

    Returns:
        The launch on rank 0, null elsewhere.
    """
    case, started = job.case, datetime.now(UTC)
    backend = registry.get(job.backend)
    events.enter(Phase.BUILD)
    begin = time.perf_counter()
    device = backend.open(case.knobs, world)
    cpus = place.keep(job, world)
    peers, collectives = meet(world, device, Path(job.folder), case.knobs)
    alignment = building.alignment(backend, case.knobs)
    with device.checkpointing():
        built = building.build(job, world, device)
        gc.collect()  # or what building left is collected inside a window
        build_s = time.perf_counter() - begin
        reporter = Reporter(events, case.knobs.process_batch * world.size, alignment)
        turns = of_job(job, events, peers)
        turns.wait_to_begin()
        found = headline.measure(
            case, built, device, alignment, backend, world, peers, reporter, turns, cpus
        )
        turns.wait_for_the_end()
        evidence = headline.evidence_of(case, built, device, found, collectives, peers)
        diagnosed, inspected, alone_s, diagnose_s = _diagnose(
            job, world, device, built, alignment, found, peers, events
        )
        counted = _counted(job, built)
    evidence = replace(
        evidence,
        diagnostics=diagnosed,
        inspection=inspected,
        flops_per_sample=counted.per_sample,
        peaks=_peaks(job, device, inspected),
        in_turns=job.in_turns,
    )
    if isinstance(peers, DistPeers):
        evidence = _over_nodes(evidence, peers.where())
    report = RankReport(
        window_s=found.measured.window_s,
        peak_memory_bytes=found.peak_memory_bytes,
        host_peak_rss_bytes=found.host_peak_rss_bytes,
        energy=found.energy,
        clocks=found.clocks,
        checks=audit(evidence),
        place=place.here(world),
        noise=found.noise,
        fallbacks=found.fallbacks(),
        alone_s=alone_s,
    )
    events.enter(Phase.REPORT)
    reports = peers.gather(report) if isinstance(peers, DistPeers) else [report]
    device.close()
    if reports is None:
        return None
    phases = Phases(
        import_s=import_s,
        build_s=build_s,
        first_step_s=found.first_step_s,
        warm_up_s=found.warm.seconds,
        measure_s=found.measure_s,
        diagnose_s=diagnose_s,
    )
    return Launch(
        index=job.index,
        seed=job.seed,
        session=job.session,
        round=job.round,
        in_turns=job.in_turns,
        cpus=None if job.cpus is None else list(job.cpus),
        ranks=[r.place for r in reports],
        started=started.isoformat(timespec="seconds"),
        phases=phases,
        micro_batches_per_window=found.measured.micro_batches_per_window,
        steps_per_window=found.measured.steps_per_window,
        samples_per_window=found.measured.micro_batches_per_window
        * case.knobs.process_batch
        * world.size,
        window_s=[r.window_s for r in reports],
        straggler=straggler([r.window_s for r in reports], [r.alone_s for r in reports]),
        voided_windows=found.measured.voided,
        dropped_windows=found.measured.dropped,
        warm_up_steps=found.warm.steps,
        steady=found.warm.steady,
        compilation=Compilation(
            count=found.after.compiles, seconds=found.after.compile_s, cache=job.cache
        ),
        executions=found.measured.executions,
        expected_executions=found.measured.expected_executions,
        fallbacks=_summed([r.fallbacks or {} for r in reports]),
        fence_residual_s=found.measured.residual_s,
        peak_memory_bytes=_largest([r.peak_memory_bytes for r in reports]),
        host_peak_rss_bytes=_largest([r.host_peak_rss_bytes for r in reports]),
        memory_window_bytes=found.memory_bytes,
        energy=energy_of_all([r.energy for r in reports if r.energy is not None]),
        clocks=clocks_of_all([r.clocks for r in reports if r.clocks is not None]),
        loss_first=found.loss_first,
        loss_last=found.loss_last,
        noise=noise_of_all(reports),
        audit=worst_of([r.checks for r in reports]),
        diagnostics=diagnostics.of_all_ranks(diagnosed, [r.alone_s for r in reports]),
        inspection=_with_reason(inspected, counted),
        flops_per_sample=evidence.flops_per_sample,
        peak=evidence.peaks[0] if len(evidence.peaks) == 1 else None,
        actual=dict(evidence.actual),
    )


def noise_of_all(reports: list[RankReport]) -> Noise:
    """Return what rank 0 found, with the share of others on the node where it is largest.

    That is null where one node cannot tell. What disturbed another node its checks say.
    """
    firsts = [report.noise.co_tenant_share for report in reports if report.place.local_rank == 0]
    known = [share for share in firsts if share is not None]
    share = max(known) if len(known) == len(firsts) else None
    return reports[0].noise.model_copy(update={"co_tenant_share": share})


def worst_of(ranks: list[list[Check]]) -> list[Check]:
    """Fold the checks of all ranks: a failure on any rank is the launch's, and names the rank."""
    folded = []
    for checks in zip(*ranks, strict=True):
        failed = [(r, c) for r, c in enumerate(checks) if c.result is CheckResult.FAIL]
        if failed and len(ranks) > 1:
            rank, check = failed[0]
            folded.append(check.model_copy(update={"evidence": f"rank {rank}: {check.evidence}"}))
        else:
            folded.append(failed[0][1] if failed else checks[0])
    return folded


def _diagnose(
    job: Job,
    world: World,
    device: Device,
    built: Built,
    alignment: Alignment,
    found: Headline,
    peers: Peers,
    events: Events,
) -> tuple[Diagnostics | None, Inspection | None, float | None, float | None]:
    """Return diagnostics, inspection, this rank's time without exchange, and what all of it took.

    Unit of both times: seconds.
    """
    # Where updates are shared out, weights are equal whether the ranks hear of each other or not.
    listens = world.size > 1 and job.index == 0 and job.case.knobs.task == "train"
    if not job.diagnose and not listens:
        return None, None, None, None
    events.enter(Phase.DIAGNOSE)
    begin = time.perf_counter()
    if not job.diagnose:
        heard = inspection.exchange(job.case.knobs, built, device, alignment, world, peers)
        return None, heard, None, time.perf_counter() - begin
    feed = built.step.batches
    periods = found.measured.micro_batches_per_window // alignment.period
    budget_s = job.case.measure.budget_s / job.case.measure.launches
    diagnosed = diagnostics.run(
        job.case.knobs,
        built,
        device,
        alignment,
        periods=periods,
        budget_s=budget_s,
        prefetched=registry.get(job.backend).prefetched(job.case.knobs),
        seed=job.seed + world.rank,
        peers=peers,
    )
    inspected = inspection.run(job.case.knobs, built, device, alignment, feed, world, peers)
    diagnosed, alone_s = diagnostics.without_exchange(
        job.case.knobs,
        diagnosed,
        built,
        device,
        alignment,
        periods=periods,
        budget_s=budget_s,
        world=world,
        peers=peers,
    )
    return diagnosed, inspected, alone_s, time.perf_counter() - begin


def _over_nodes(evidence: Evidence, where: Where) -> Evidence:
    """Return the evidence with the nodes, where the system tells one machine from another."""
    if where.nodes is None:
        return replace(evidence, machines=where.machines)
    return replace(
        evidence,
        machines=where.machines,
        asked={**evidence.asked, "nodes": evidence.knobs.nodes},
        actual={**evidence.actual, "nodes": where.nodes},
    )


def _counted(job: Job, built: Built) -> Flops:
    """Count a sample's operations once a run: they are the same in every launch."""
    return flops.count(job.case.knobs, built.image_size) if job.index == 0 else Flops()


def _peaks(job: Job, device: Device, inspected: Inspection | None) -> tuple[Peak, ...]:
    """Return the device's peak in every type of products; empty: one of them is not known."""
    types = inspection.product_types(inspected) if inspected is not None else []
    found = [device.peak(dtype, job.probe.device_model) for dtype in types]
    known = tuple(Peak.model_validate(peak.model_dump()) for peak in found if peak is not None)
    return known if len(known) == len(found) else ()


def _with_reason(inspected: Inspection | None, counted: Flops) -> Inspection | None:
    if inspected is None or counted.reason is None:
        return inspected
    skipped = [*inspected.skipped, f"FLOPs: {counted.reason}"]
    return inspected.model_copy(update={"skipped": skipped})


def _largest(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)


def _summed(counts: list[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)
