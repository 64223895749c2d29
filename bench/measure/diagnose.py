"""The pass apart from the headline: what explains a throughput, and whether the clock saw the work.

Nothing measured here enters a throughput. Every function starts and ends at a window edge, so that
they can follow one another. It must not know how a loader or a device works.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from bench.measure.alignment import Alignment
from bench.measure.target import ALONE, WALL_CLOCK, Clock, Peers, Target, timed_advance
from bench.measure.warm_up import drain
from bench.results.record import Latency

TWIN_PAIRS = 3


class LoaderTimer(Protocol):
    """A count of the time that the training loop waited for batches."""

    def wait_s(self) -> float:
        """Return the time spent in the loader's next() so far. Unit: seconds."""


class Percentiles(NamedTuple):
    """Nearest-rank percentiles, in the unit of the values; null where there are too few."""

    p50: float | None
    p95: float | None
    p99: float | None


class Naive(NamedTuple):
    """What a clock reads that is looked at after every step and waits for nothing."""

    seconds: float
    """All steps together, on the rank that reads most."""
    fenced_s: float
    """The same steps until the device had finished them, on the slowest rank."""
    median_s: float
    """Of the single steps of this rank."""
    steps: int


class Twin(NamedTuple):
    """Blocks of the same steps with the loader and without, in turns."""

    block_s: list[float]
    """Without it. Unit: seconds."""
    gaps: list[float]
    """How much longer the block with it took that came just before, as a share."""
    micro_batches: int
    """Per rank and block."""


class NoSingleStep(Exception):  # noqa: N818 - a reason to skip, not an error
    """The device executes several steps at once, so the time of one cannot be read."""

    def __init__(self, steps_per_period: int) -> None:
        super().__init__(
            f"latency: {steps_per_period} steps run in one graph, so a single step has no time of "
            "its own; set loader.batches_per_execution to 1"
        )


def doubling(
    target: Target,
    alignment: Alignment,
    periods: int,
    *,
    clock: Clock = WALL_CLOCK,
    peers: Peers = ALONE,
) -> float:
    """Return T(2K) / T(K) for K periods: 2 when the clock sees the work.

    K runs before and after 2K and the two are averaged, so that a steady drift cancels. Times are
    those of the slowest rank.

    Raises:
        ValueError: `periods` is below 1.
    """
    if periods < 1:
        raise ValueError(f"periods={periods}: there is nothing to double")
    micro_batches = periods * alignment.period
    first = _block(target, micro_batches, clock, peers)
    doubled = _block(target, 2 * micro_batches, clock, peers)
    last = _block(target, micro_batches, clock, peers)
    return 2 * doubled / (first + last)


def loader_share(
    target: Target,
    alignment: Alignment,
    periods: int,
    loader: LoaderTimer,
    *,
    clock: Clock = WALL_CLOCK,
    peers: Peers = ALONE,
) -> float:
    """Return the share of a block's time in which the loop waited for its loader.

    Of several ranks, the one that waits longest.

    Args:
        target: A warm workload at a window edge, which draws from `loader`.
        alignment: The rhythm of the case.
        periods: Length of the block.
        loader: The waiting time of this rank.
        clock: Where the time is read.
        peers: The other ranks.
    """
    target.fence()
    peers.barrier()
    waited = loader.wait_s()
    seconds = timed_advance(target, periods * alignment.period, clock)
    return peers.most((loader.wait_s() - waited) / seconds)


def naive_clock(
    target: Target,
    alignment: Alignment,
    periods: int,
    *,
    clock: Clock = WALL_CLOCK,
    peers: Peers = ALONE,
) -> Naive:
    """Return what the per-step clock of most scripts reads over a block of work.

    Such a script reads the clock once a step and takes the mean of the differences. Nothing waits
    for the device: what is still queued after the last step, and a graph that no cut has sent off
    yet, are done when the clock has stopped. The block starts and ends at a window edge, and what
    is left over is waited for afterwards.

    Args:
        target: A warm workload at a window edge.
        alignment: The rhythm of the case.
        periods: Length of the block: that of a window, so that the two may be compared.
        clock: Where the time is read.
        peers: The other ranks.

    Raises:
        ValueError: `periods` is below 1.
    """
    if periods < 1:
        raise ValueError(f"periods={periods}: there is no step to time")
    target.fence()
    peers.barrier()
    readings = [clock.now()]
    for _ in range(periods * alignment.steps_per_period):
        target.advance(alignment.gradient_accumulation)
        readings.append(clock.now())
    target.fence()
    fenced = clock.now()
    times = [later - earlier for earlier, later in itertools.pairwise(readings)]
    return Naive(
        seconds=peers.most(readings[-1] - readings[0]),
        fenced_s=peers.most(fenced - readings[0]),
        median_s=statistics.median(times),
        steps=len(times),
    )


def twin(
    target: Target,
    alignment: Alignment,
    periods: int,
    use_loader: Callable[[bool], None],
    prefetched: int,
    budget_s: float,
    *,
    clock: Clock = WALL_CLOCK,
    peers: Peers = ALONE,
) -> Twin | None:
    """Time the same steps with the loader and without, in blocks that take turns.

    A machine whose speed wanders slows both of a pair. Each block with the loader begins with an
    empty queue, or it would be fed by what was loaded while the other one ran; each without begins
    when the loader has filled its queue again and rests.

    Args:
        target: A warm workload at a window edge; warm without its loader too.
        alignment: The rhythm of the case.
        periods: Length of all blocks of a kind together.
        use_loader: Called with whether the next steps draw from the loader.
        prefetched: Batches that may wait between the loader and the step. Unit: micro-batches.
        budget_s: No further pair is begun after that time; at least one is timed. Unit: seconds.
        clock: Where the time is read.
        peers: The other ranks.

    Returns:
        Null: a graph was compiled in every pair.
    """
    micro_batches = math.ceil(periods / TWIN_PAIRS) * alignment.period
    block_s: list[float] = []
    gaps: list[float] = []
    begin = clock.now()
    for _ in range(2 * TWIN_PAIRS):
        if len(gaps) == TWIN_PAIRS or (gaps and peers.most(clock.now() - begin) >= budget_s):
            break
        compiles = target.compiles()
        use_loader(True)
        drain(target, alignment, prefetched)
        target.advance(alignment.period)
        with_loader = _block(target, micro_batches, clock, peers)
        use_loader(False)
        # A loader that fell behind delivers a batch in this time; any other has less to do.
        filled_at = clock.now() + prefetched * with_loader / micro_batches
        target.advance(alignment.period)
        target.fence()
        while peers.any(clock.now() < filled_at):
            target.advance(alignment.period)
            target.fence()
        without = _block(target, micro_batches, clock, peers)
        if not peers.any(target.compiles() > compiles):
            block_s.append(without)
            gaps.append(with_loader / without - 1)
    return Twin(block_s, gaps, micro_batches) if gaps else None


def latencies(
    target: Target,
    alignment: Alignment,
    steps: int,
    budget_s: float,
    *,
    clock: Clock = WALL_CLOCK,
    peers: Peers = ALONE,
) -> list[float]:
    """Return the times of single steps, each fenced. Unit: seconds.

    Args:
        target: A warm workload at a window edge.
        alignment: The rhythm of the case.
        steps: How many to time.
        budget_s: No further step is begun after that time; at least one is timed. Unit: seconds.
        clock: Where the time is read.
        peers: The other ranks.

    Raises:
        NoSingleStep: a period holds more than one step.
        ValueError: `steps` is below 1.
    """
    if alignment.steps_per_period != 1:
        raise NoSingleStep(alignment.steps_per_period)
    if steps < 1:
        raise ValueError(f"steps={steps}: there is nothing to time")
    begin = clock.now()
    times: list[float] = []
    target.fence()
    while len(times) < steps:
        times.append(timed_advance(target, alignment.period, clock))
        if peers.most(clock.now() - begin) >= budget_s:
            break
    return times


def percentiles(values: Sequence[float]) -> Percentiles:
    """Return the 50th, 95th and 99th percentile, each an observed value (nearest rank).

    A percentile needs one value beyond it on average: 2 values for p50, 20 for p95, 100 for p99.
    """
    ordered = sorted(values)
    return Percentiles(_rank(ordered, 50), _rank(ordered, 95), _rank(ordered, 99))


def latency(seconds: Sequence[float]) -> Latency:
    """Return the record's summary of fenced step times.

    Args:
        seconds: Single steps, in seconds; the summary is in milliseconds.
    """
    p50, p95, p99 = (None if p is None else 1e3 * p for p in percentiles(seconds))
    return Latency(steps=len(seconds), p50_ms=p50, p95_ms=p95, p99_ms=p99)


def _block(target: Target, micro_batches: int, clock: Clock, peers: Peers) -> float:
    target.fence()
    peers.barrier()
    return peers.most(timed_advance(target, micro_batches, clock))


def _rank(ordered: Sequence[float], percent: int) -> float | None:
    if len(ordered) * (100 - percent) < 100:  # noqa: PLR2004 - one value beyond it
        return None
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]
