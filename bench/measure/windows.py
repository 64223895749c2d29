"""The only thing that is timed: blocks of whole periods between two fences.

This module decides how long windows are, times them, and says which of them count. It must not know
what a rate, an interval or a verdict is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.measure.alignment import Alignment
from bench.measure.readings import NO_GAUGE, Around, Gauge, Reading
from bench.measure.target import (
    ALONE,
    SILENT,
    WALL_CLOCK,
    Clock,
    Peers,
    Progress,
    Target,
    timed_advance,
)
from bench.measure.turns import UNDIVIDED, Turns
from bench.measure.warm_up import QUIET_PERIODS, drain
from bench.results.record import Phase
from bench.results.truncation import mser
from bench.scenarios.schema import Measure

MIN_WINDOWS = 3
"""A launch is never planned with fewer, nor left with fewer by the truncation rule."""
TRUNCATION_WINDOWS = 10
"""From so many windows on, the truncation rule may drop leading ones."""
SETTLING_ROUNDS = 10
"""After a voided window, so many tries to find the compiler standing still."""


class NoCleanWindow(Exception):  # noqa: N818 - an outcome, not an error
    """Every window was voided by a compilation: the workload has no steady graph."""

    def __init__(self, voided: int) -> None:
        super().__init__(
            f"a graph was compiled inside every one of {voided} windows: look for shapes or Python "
            "values that change from step to step"
        )
        self.voided = voided


@dataclass(frozen=True)
class WindowPlan:
    """How the time for one launch is cut.

    Raises:
        ValueError: a count is below 1.
    """

    periods_per_window: int
    windows: int

    def __post_init__(self) -> None:
        if self.periods_per_window < 1 or self.windows < 1:
            raise ValueError(f"a plan needs at least one window of one period, not {self}")


def plan_windows(measure: Measure, period_s: float, least_periods: int = 1) -> WindowPlan:
    """Cut a launch's share of the budget into windows of whole periods.

    A window gets as many whole periods as fit into budget / launches / windows. Where not even one
    fits, windows are one period long and there are fewer of them: as many as fit into the launch's
    share, but at least `MIN_WINDOWS`, which is the only way to exceed the budget.

    A device that works behind the host's back stands idle after every fence until new work reaches
    it. So that this is not sold as the speed of training, its windows are made longer and fewer,
    down to `MIN_WINDOWS`, until they hold `least_periods`.

    Args:
        measure: The budget of the case, its launches and its windows.
        period_s: What a period takes, equal on all ranks (`WarmUp.period_s`). Unit: seconds.
        least_periods: How many a window should hold, as far as the budget allows.

    Raises:
        ValueError: `period_s` is not a positive time.
    """
    if not (period_s > 0 and math.isfinite(period_s)):
        raise ValueError(f"a period of {period_s} s cannot fill a window")
    launch_s = measure.budget_s / measure.launches
    periods = _whole(launch_s / measure.windows / period_s)
    longest = min(least_periods, _whole(launch_s / MIN_WINDOWS / period_s))
    if longest > max(1, periods):
        fitting = _whole(launch_s / (longest * period_s))
        windows = max(MIN_WINDOWS, min(measure.windows, fitting))
        return WindowPlan(periods_per_window=longest, windows=windows)
    if periods >= 1:
        return WindowPlan(periods_per_window=periods, windows=measure.windows)
    return WindowPlan(periods_per_window=1, windows=max(MIN_WINDOWS, _whole(launch_s / period_s)))


@dataclass(frozen=True)
class Measured:
    """The clean windows of one rank, oldest first, and what became of the others."""

    window_s: list[float]
    """Fence to fence on this rank. Unit: seconds."""
    slowest_s: list[float]
    """The same windows on their slowest rank. Unit: seconds."""
    residual_s: list[float]
    """After each of these windows: what `Target.residual` told. Unit: seconds."""
    readings: list[Around]
    """What the gauge read before and after each of these windows."""
    micro_batches_per_window: int
    """Per rank."""
    steps_per_window: int
    executions: int | None
    """Graph executions inside these windows; null on a device that has no graphs."""
    expected_executions: int | None
    """What the alignment says they must be; null as above."""
    voided: int
    """Windows in which any rank compiled a graph."""
    dropped: int
    """Clean leading windows that were still warm-up."""
    exhausted: bool
    """True: voided windows used up the attempts, so there are fewer clean ones than planned."""


@dataclass(frozen=True)
class _Window:
    seconds: float
    slowest: float
    residual: float
    executions: int | None
    reading: Reading
    """Right after it."""


def measure_windows(
    target: Target,
    alignment: Alignment,
    plan: WindowPlan,
    *,
    clock: Clock = WALL_CLOCK,
    peers: Peers = ALONE,
    progress: Progress = SILENT,
    gauge: Gauge = NO_GAUGE,
    turns: Turns = UNDIVIDED,
    prefetched: int = 0,
) -> Measured:
    """Time windows until the planned number of clean ones is reached.

    Each is: fence, host barrier, clock, issue the work, fence, clock. Nothing else happens inside.
    A window in which any rank compiled is void and repeated, after whole periods have run with the
    compile counter standing still. As many windows as planned may be voided; after that, or when
    the compiler does not come to rest, the launch keeps the clean ones it has.

    Args:
        target: A warm workload, at a window edge.
        alignment: The rhythm of the case.
        plan: How many windows of how many periods; equal on all ranks.
        clock: Where the time is read.
        peers: The other ranks.
        progress: Told after every window.
        gauge: Read before the first window and after every one, outside its time.
        turns: Waited for before every window.
        prefetched: Batches that may wait between the loader and the step; thrown away after a
            voided window. Unit: micro-batches.

    Raises:
        NoCleanWindow: not one window was free of compilation.
    """
    progress.phase(Phase.MEASURE)
    micro_batches = plan.periods_per_window * alignment.period
    clean: list[_Window] = []
    readings: list[Around] = []
    voided = 0
    exhausted = False
    before = gauge.read()
    while len(clean) < plan.windows and not exhausted:
        if turns.wait():
            target.advance(_again_warm(plan, first=not (clean or voided)) * alignment.period)
            target.fence()
            # What the device used meanwhile was not for this launch.
            before = gauge.read()
        window = _timed_window(target, micro_batches, clock, peers, gauge)
        if window is not None:
            clean.append(window)
            readings.append(Around(before, window.reading))
            before = window.reading
            progress.window(len(clean), plan.windows, window.slowest)
            continue
        voided += 1
        progress.voided(voided)
        exhausted = voided >= plan.windows or not _settle(target, alignment, peers, prefetched)
        before = gauge.read()
    if not clean:
        raise NoCleanWindow(voided)
    dropped = leading_warm_up([w.slowest for w in clean])
    kept = clean[dropped:]
    executions = _total([w.executions for w in kept])
    return Measured(
        window_s=[w.seconds for w in kept],
        slowest_s=[w.slowest for w in kept],
        residual_s=[w.residual for w in kept],
        readings=readings[dropped:],
        micro_batches_per_window=micro_batches,
        steps_per_window=plan.periods_per_window * alignment.steps_per_period,
        executions=executions,
        expected_executions=None
        if executions is None
        else len(kept) * plan.periods_per_window * alignment.executions_per_period,
        voided=voided,
        dropped=dropped,
        exhausted=exhausted,
    )


def leading_warm_up(slowest_s: Sequence[float]) -> int:
    """Return how many leading windows were still warm-up.

    MSER over the single windows says where the steady state may begin; of the windows before it,
    the leading ones go that are all slower than every one that remains. One slow window among fast
    ones is noise, and noise belongs in the number. Below `TRUNCATION_WINDOWS` windows nothing is
    dropped, and never so many that fewer than `MIN_WINDOWS`, or half, would remain.

    Args:
        slowest_s: Window times on the slowest rank, oldest first. Unit: seconds.
    """
    if len(slowest_s) < TRUNCATION_WINDOWS:
        return 0
    steady_from = mser(slowest_s, batch=1) or 0
    slower_than_the_rest = (
        cut for cut in range(1, steady_from + 1) if min(slowest_s[:cut]) > max(slowest_s[cut:])
    )
    return max(slower_than_the_rest, default=0)


def _again_warm(plan: WindowPlan, *, first: bool) -> int:
    """Return how many periods run untimed after a rest, which has emptied the caches.

    As many as a window has after the long rest before the first one, then one. However long it is:
    of two sides, one with and one without it would differ by what the caches cost.
    """
    return plan.periods_per_window if first else 1


def _timed_window(
    target: Target, micro_batches: int, clock: Clock, peers: Peers, gauge: Gauge
) -> _Window | None:
    """Return a clean window, or null where any rank compiled inside."""
    target.fence()
    compiles, executions = target.compiles(), target.executions()
    peers.barrier()
    seconds = timed_advance(target, micro_batches, clock)
    compiled_here, executed = target.compiles() > compiles, target.executions()
    # First: what the fence left undone goes on meanwhile.
    residual = target.residual()
    # Then at once: a device that rests may lower its clock.
    reading = gauge.read()
    compiled = peers.any(compiled_here)
    slowest = peers.most(seconds)
    if compiled:
        return None
    return _Window(
        seconds=seconds,
        slowest=slowest,
        residual=residual,
        executions=None if executed is None or executions is None else executed - executions,
        reading=reading,
    )


def _settle(target: Target, alignment: Alignment, peers: Peers, prefetched: int) -> bool:
    """Run whole periods until no rank compiles any more; false: they go on compiling."""
    for _ in range(SETTLING_ROUNDS):
        compiles = target.compiles()
        target.advance(QUIET_PERIODS * alignment.period)
        target.fence()
        if not peers.any(target.compiles() > compiles):
            drain(target, alignment, prefetched)
            return True
    return False


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _whole(ratio: float) -> int:
    """Round down, except for what only rounding keeps below a whole number."""
    return math.floor(ratio * (1 + 1e-9))
