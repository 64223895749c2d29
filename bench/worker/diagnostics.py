"""The diagnostic pass: why the number is what it is. It never contributes to a throughput."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

from bench.backends.base import Device, World
from bench.measure import device_steps, diagnose, exchange
from bench.measure.alignment import Alignment
from bench.measure.target import Peers
from bench.results.record import DeviceSteps, Diagnostics, Latency
from bench.scenarios.schema import Knobs
from bench.worker.building import Built
from bench.workload import data
from bench.workload.engines import NotWithoutExchange
from bench.workload.step import InferStep, TimedBatches

T = TypeVar("T")
_LATENCY_STEPS = 200
_TWIN_WARM_UP_PERIODS = 4
_DOUBLING_TRIES = 3
_TRIES = 3
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

    And read the clock as most scripts do, over a block as long as a window; over another, the
    device's own where it has one.

    Args:
        knobs: Of the case.
        built: Its workload, at a window edge.
        device: Where it runs.
        alignment: The rhythm of the case.
        periods: Length of a block: that of a headline window.
        budget_s: What latencies may take, and the twin. Unit: seconds.
        prefetched: Batches that may wait between the loader and the step. Unit: micro-batches.
        seed: Of the twin's batches.
        peers: The other ranks.
    """
    step = built.step
    skipped: list[str] = []
    ratio = _doubling(built, alignment, periods, peers)
    naive = _uncompiled(
        built, peers, lambda: diagnose.naive_clock(step, alignment, periods, peers=peers)
    )
    if naive is None:
        skipped.append(f"naive clock: a graph was compiled in each of {_TRIES} tries")
    own_clock: DeviceSteps | None = None
    if device.mark() is not None:
        own_clock = _uncompiled(
            built,
            peers,
            lambda: device_steps.of_block(step, alignment, periods, device, peers=peers),
        )
        if own_clock is None:
            skipped.append(f"steps by the device's clock: a graph was compiled in {_TRIES} tries")
    share: float | None = None
    twin: diagnose.Twin | None = None
    if knobs.data.source == "device":
        skipped.append("loader share and device twin: the batches lie on the device already")
    else:
        timed = TimedBatches(step.batches)
        step.batches = timed
        share = _uncompiled(
            built,
            peers,
            lambda: diagnose.loader_share(step, alignment, periods, timed, peers=peers),
        )
        if share is None:
            skipped.append(f"loader share: a graph was compiled in each of {_TRIES} tries")
    latency: Latency | None = None
    if knobs.task == "infer":
        try:
            times = diagnose.latencies(step, alignment, _LATENCY_STEPS, budget_s, peers=peers)
            latency = diagnose.latency(times)
        except diagnose.NoSingleStep as reason:
            skipped.append(str(reason))
    if knobs.data.source != "device":
        twin = _twin(knobs, built, device, alignment, periods, prefetched, budget_s, seed, peers)
        if twin is None:
            skipped.append("device twin: a graph was compiled in every pair of blocks")
    return Diagnostics(
        loader_wait_share=share,
        device_twin_samples_per_s=None if twin is None else _twin_samples_per_s(knobs, twin),
        device_twin_gaps=[] if twin is None else twin.gaps,
        doubling_ratio=ratio,
        naive_samples_per_s=None if naive is None else _samples_per_s(knobs, naive, naive.seconds),
        naive_fenced_samples_per_s=None
        if naive is None
        else _samples_per_s(knobs, naive, naive.fenced_s),
        naive_step_ms_median=None if naive is None else 1e3 * naive.median_s,
        latency=latency,
        device_steps=own_clock,
        skipped=skipped,
    )


def without_exchange(
    knobs: Knobs,
    found: Diagnostics,
    built: Built,
    device: Device,
    alignment: Alignment,
    *,
    periods: int,
    budget_s: float,
    world: World,
    peers: Peers,
) -> tuple[Diagnostics, float | None]:
    """Add what the exchange between ranks costs, from steps with it and without, in turns.

    To be called last: the ranks train apart meanwhile, and their weights agree no more.

    Args:
        knobs: Of the case.
        found: What the pass has found before.
        built: The workload, at a window edge.
        device: Where it runs.
        alignment: The rhythm of the case.
        periods: Length of a block: that of a headline window.
        budget_s: What the pairs of blocks may take. Unit: seconds.
        world: This process's place.
        peers: The other ranks.

    Returns:
        The diagnostics, and this rank's own time of a block without the exchange in seconds; null:
        not known.
    """
    if knobs.devices == 1:
        return found, None
    reason = _always_exchanges(built, device, world)
    pairs: exchange.Unexchanged | None = None
    if reason is None:
        with contextlib.ExitStack() as stack:

            def switch(wanted: bool) -> None:
                stack.close()
                if not wanted:
                    stack.enter_context(built.engine.unexchanged())

            pairs = exchange.unexchanged(
                built.step, alignment, periods, switch, budget_s, peers=peers
            )
        reason = None if pairs else "a graph was compiled in every pair of blocks"
    if pairs is None:
        skipped = [*found.skipped, f"communication: {reason}"]
        return found.model_copy(update={"skipped": skipped}), None
    shares = {
        "communication_share": statistics.median(pairs.shares),
        "communication_shares": pairs.shares,
    }
    return found.model_copy(update=shares), pairs.own_s


def of_all_ranks(found: Diagnostics | None, alone_s: Sequence[float | None]) -> Diagnostics | None:
    """Return the diagnostics with what each rank took without the exchange. Unit: seconds."""
    if found is None:
        return None
    known = [seconds for seconds in alone_s if seconds is not None]
    return found.model_copy(update={"alone_s": known if len(known) == len(alone_s) else []})


def _always_exchanges(built: Built, device: Device, world: World) -> str | None:
    """Return why there are no steps without the exchange; null: there are."""
    if world.size == 1:
        return "the devices of one process exchange inside of its graph"
    if device.pending(next(built.model.parameters())) is not None:
        return "on this device steps without it would be another graph to compile"
    if isinstance(built.step, InferStep) and not built.engine.shards_weights:
        return "inference exchanges nothing where every rank has all weights"
    try:
        with built.engine.unexchanged():
            return None
    except NotWithoutExchange as found:
        return str(found)


def _doubling(built: Built, alignment: Alignment, periods: int, peers: Peers) -> float:
    """Return the clearest of a few readings: a busy machine bends one, a blind clock bends all."""
    best = 0.0
    for _ in range(_DOUBLING_TRIES):
        best = max(best, diagnose.doubling(built.step, alignment, periods, peers=peers))
        if best >= _CLEARLY_DOUBLED:
            break
    return best


def _uncompiled(built: Built, peers: Peers, read: Callable[[], T]) -> T | None:
    """Return a reading in which no rank compiled a graph; null: they went on compiling."""
    for _ in range(_TRIES):
        compiles = built.step.compiles()
        found = read()
        if not peers.any(built.step.compiles() > compiles):
            return found
    return None


def _samples_per_s(knobs: Knobs, naive: diagnose.Naive, seconds: float) -> float:
    """Return what a script prints: the batch of all ranks over the mean time of a step."""
    samples_per_step = knobs.gradient_accumulation * knobs.batch_size * knobs.devices
    return samples_per_step * naive.steps / seconds


def _twin(
    knobs: Knobs,
    built: Built,
    device: Device,
    alignment: Alignment,
    periods: int,
    prefetched: int,
    budget_s: float,
    seed: int,
    peers: Peers,
) -> diagnose.Twin | None:
    """Time the same step over batches that lie on the device; null: it went on compiling."""
    step = built.step
    loaded = step.batches
    # Validated anew: the size of a pool that nobody chose follows the batches of a graph.
    resident_knobs = Knobs.model_validate(knobs.model_dump() | {"data": {"source": "device"}})
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

    def use_loader(wanted: bool) -> None:
        step.batches = loaded if wanted else resident

    return diagnose.twin(step, alignment, periods, use_loader, prefetched, budget_s, peers=peers)


def _twin_samples_per_s(knobs: Knobs, twin: diagnose.Twin) -> float:
    samples = twin.micro_batches * knobs.batch_size * knobs.devices
    return samples / statistics.median(twin.block_s)
