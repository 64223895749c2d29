"""The diagnostic pass: why the number is what it is. It never contributes to a throughput."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from bench.backends.base import Device
from bench.measure import diagnose
from bench.measure.alignment import Alignment
from bench.measure.target import WALL_CLOCK, Peers, timed_advance
from bench.results.record import Diagnostics, Latency
from bench.scenarios.schema import DataKnobs, Knobs
from bench.worker.building import Built
from bench.workload import data
from bench.workload.step import TimedBatches

_LATENCY_STEPS = 200
_TWIN_WARM_UP_PERIODS = 4
_TWIN_ROUNDS = 3
_DOUBLING_TRIES = 3
_NAIVE_TRIES = 3
_CLEARLY_DOUBLED = 1.6


def run(
    knobs: Knobs,
    built: Built,
    device: Device,
    alignment: Alignment,
    *,
    periods: int,
    budget_s: float,
    prefetched: int,
    seed: int,
    peers: Peers,
) -> Diagnostics:
    """Measure the loader's share, the doubling witness, latencies and the device-resident twin.

    And read the clock as most scripts do, over a block as long as a window.

    Args:
        knobs: Of the case.
        built: Its workload, at a window edge.
        device: Where it runs.
        alignment: The rhythm of the case.
        periods: Length of a block: that of a headline window.
        budget_s: What latencies may take. Unit: seconds.
        prefetched: Batches that may wait between the loader and the step. Unit: micro-batches.
        seed: Of the twin's batches.
        peers: The other ranks.
    """
    step = built.step
    skipped: list[str] = []
    ratio = _doubling(built, alignment, periods, peers)
    naive = _naive(built, alignment, periods, peers)
    if naive is None:
        skipped.append(f"naive clock: a graph was compiled in each of {_NAIVE_TRIES} tries")
    share: float | None = None
    twin: _Twin | None = None
    if knobs.data.source == "device":
        skipped.append("loader share and device twin: the batches lie on the device already")
    else:
        timed = TimedBatches(step.batches)
        step.batches = timed
        share = diagnose.loader_share(step, alignment, periods, timed, peers=peers)
    latency: Latency | None = None
    if knobs.task == "infer":
        try:
            times = diagnose.latencies(step, alignment, _LATENCY_STEPS, budget_s, peers=peers)
            latency = diagnose.latency(times)
        except diagnose.NoSingleStep as reason:
            skipped.append(str(reason))
    if knobs.data.source != "device":
        twin = _twin(knobs, built, device, alignment, periods, prefetched, seed, peers)
    return Diagnostics(
        loader_wait_share=share,
        device_twin_samples_per_s=None if twin is None else twin.samples_per_s,
        device_twin_gaps=[] if twin is None else twin.gaps,
        doubling_ratio=ratio,
        naive_samples_per_s=None if naive is None else _samples_per_s(knobs, naive),
        naive_step_ms_median=None if naive is None else 1e3 * naive.median_s,
        latency=latency,
        skipped=skipped,
    )


def _doubling(built: Built, alignment: Alignment, periods: int, peers: Peers) -> float:
    """Return the clearest of a few readings: a busy machine bends one, a blind clock bends all."""
    best = 0.0
    for _ in range(_DOUBLING_TRIES):
        best = max(best, diagnose.doubling(built.step, alignment, periods, peers=peers))
        if best >= _CLEARLY_DOUBLED:
            break
    return best


def _naive(built: Built, alignment: Alignment, periods: int, peers: Peers) -> diagnose.Naive | None:
    """Return a reading in which no rank compiled a graph; null: they went on compiling."""
    for _ in range(_NAIVE_TRIES):
        compiles = built.step.compiles()
        naive = diagnose.naive_clock(built.step, alignment, periods, peers=peers)
        if not peers.any(built.step.compiles() > compiles):
            return naive
    return None


def _samples_per_s(knobs: Knobs, naive: diagnose.Naive) -> float:
    """Return what a script prints: the batch of all ranks over the mean time of a step."""
    samples_per_step = knobs.gradient_accumulation * knobs.batch_size * knobs.processes
    return samples_per_step * naive.steps / naive.seconds


@dataclass(frozen=True)
class _Twin:
    samples_per_s: float
    """Over all ranks."""
    gaps: list[float]
    """How much faster it was than the block with the loader just before it."""


def _twin(
    knobs: Knobs,
    built: Built,
    device: Device,
    alignment: Alignment,
    periods: int,
    prefetched: int,
    seed: int,
    peers: Peers,
) -> _Twin:
    """Return the speed of the same step over batches that lie on the device.

    Blocks with the loader and without take turns, so that a machine whose speed wanders slows both.
    The last thing a launch does: its loader is gone afterwards.
    """
    step = built.step
    loaded = step.batches
    resident_knobs = knobs.model_copy(update={"data": DataKnobs(source="device")})
    pool = data.resident(resident_knobs, built.image_size, seed, device.torch_device)
    resident = device.feed(pool, resident_knobs)
    step.batches = resident
    # The new feed counts its batches from 0, so the first graph is short again.
    step.advance(alignment.lead_in)
    step.fence()
    for _ in range(_TWIN_WARM_UP_PERIODS):
        compiles = step.compiles()
        step.advance(alignment.period)
        step.fence()
        if not peers.any(step.compiles() > compiles):
            break

    def block(untimed: int) -> float:
        step.advance(untimed * alignment.period)
        step.fence()
        peers.barrier()
        return peers.most(timed_advance(step, micro_batches, WALL_CLOCK))

    micro_batches = math.ceil(periods / _TWIN_ROUNDS) * alignment.period
    # While the twin ran, the loader has filled its queue: those batches cost nothing now.
    in_queue = math.ceil(prefetched / alignment.period)
    without, gaps = [], []
    for _ in range(_TWIN_ROUNDS):
        step.batches = loaded
        with_loader = block(1 + in_queue)
        step.batches = resident
        without.append(block(1))
        gaps.append(with_loader / without[-1] - 1)
    samples = micro_batches * knobs.batch_size * knobs.processes
    return _Twin(samples / statistics.median(without), gaps)
