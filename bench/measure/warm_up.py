"""From the first step to the steady state: when may measuring begin?

This module decides that, on every rank alike. It must not know how long measuring will last, and it
keeps no time that ends up in a throughput.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.measure.alignment import Alignment
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
from bench.results.record import Phase
from bench.results.truncation import mser
from bench.scenarios.schema import Measure

CHUNK_S = 0.05
"""A chunk is fenced and timed as one; shorter ones would time the fence. Unit: seconds."""
LONG_CHUNK_S = 1.0
"""Chunks of this length are compared two against two instead of three against three."""
QUIET_PERIODS = 2
"""Whole periods without a compilation before the compiler counts as done."""
AGREEMENT = 0.01
"""Two groups of chunks agree when their means differ by at most this share of their mean ..."""
STANDARD_ERRORS = 2.0
"""... or by this many standard errors, judged by the scatter inside the groups."""
TRUNCATION_CHUNKS = 20
"""From so many chunks on, MSER-5 is asked too."""


@dataclass(frozen=True)
class WarmUp:
    """What the warm-up did; equal on all ranks but for `seconds`."""

    micro_batches: int
    steps: int
    seconds: float
    """Wall time of the whole phase on this rank."""
    steady: bool
    """False: the cap was reached first."""
    period_s: float
    """One period on the slowest rank, judged by the last chunks. Unit: seconds."""
    reason: str
    """What made it end, in words."""


def first_step(
    target: Target,
    alignment: Alignment,
    *,
    clock: Clock = WALL_CLOCK,
    progress: Progress = SILENT,
) -> float:
    """Run the lead-in, which traces, compiles and makes at least one step, and fence it.

    Returns:
        Its wall time on this rank. Unit: seconds.
    """
    progress.phase(Phase.FIRST_STEP)
    return timed_advance(target, alignment.lead_in, clock)


def warm_up(
    target: Target,
    alignment: Alignment,
    measure: Measure,
    prefetched: int,
    *,
    clock: Clock = WALL_CLOCK,
    peers: Peers = ALONE,
    progress: Progress = SILENT,
) -> WarmUp:
    """Run fenced chunks of whole periods until the workload is steady, or the cap is reached.

    It ends when all of this holds: `measure.warmup_steps` and `measure.warmup_s` are met; at least
    `QUIET_PERIODS` periods ran since the last compilation; what the loader had prefetched by then
    was thrown away, so that no window lives on what was loaded while a graph compiled; and the last
    two groups of chunks since agree (`AGREEMENT`, `STANDARD_ERRORS`). (Using the batches up would
    take far longer: while they are trained on, a loader that is a little too slow delivers nearly
    as many.) MSER-5 over the chunks may lengthen it beyond that, to twice as many chunks at most.
    After `measure.warmup_cap_s` seconds it ends in any case, without a steady state.

    Every decision rests on the slowest rank's times and on any rank's compilations.

    Args:
        target: A workload that has made its first step and was fenced.
        alignment: The rhythm of the case.
        measure: The minimum and the cap.
        prefetched: Batches that may wait between the loader and the step. Unit: micro-batches.
        clock: Where the time is read.
        peers: The other ranks.
        progress: Told after every chunk.
    """
    progress.phase(Phase.WARM_UP)
    begin = clock.now()
    run = _Run(alignment)
    while True:
        before = target.compiles()
        elapsed = peers.most(timed_advance(target, run.chunk, clock))
        compiled = peers.any(target.compiles() > before)
        run.add(elapsed, compiled)
        seconds = clock.now() - begin
        slowest = peers.most(seconds)
        progress.warm_up(run.steps, seconds, run.period_s)
        if not run.drained and run.quiet >= QUIET_PERIODS * alignment.period:
            run.drained = True
            if prefetched:
                drain(target, alignment, prefetched)
                run.start_over()
        missing = run.missing(measure, slowest)
        if missing is None or slowest >= measure.warmup_cap_s:
            break
    return WarmUp(
        micro_batches=run.micro_batches,
        steps=run.steps,
        seconds=seconds,
        steady=missing is None,
        period_s=run.period_s,
        reason=run.agreement()
        if missing is None
        else f"no steady state within {measure.warmup_cap_s:g} s: {missing}",
    )


def drain(target: Target, alignment: Alignment, prefetched: int) -> None:
    """Throw away what waits between the loader and the step.

    Args:
        target: A workload at a window edge.
        alignment: The rhythm of the case; whole periods go, or the next graph would hold others.
        prefetched: Batches that may wait. Unit: micro-batches.
    """
    target.discard(math.ceil(prefetched / alignment.period) * alignment.period)


@dataclass
class _Run:
    """The chunks so far, and what they say."""

    alignment: Alignment
    micro_batches: int = 0
    periods: int = 1
    """Per chunk."""
    quiet: int = 0
    """Micro-batches since the last chunk that compiled."""
    drained: bool = False
    """What was loaded before and while it compiled is gone."""
    times: list[float] = field(default_factory=list)
    """Seconds per period of each chunk of the present size since the last compilation."""
    agreed_at: int | None = None
    """Chunks at the first agreement."""
    last_period_s: float = 0.0

    @property
    def chunk(self) -> int:
        return self.periods * self.alignment.period

    @property
    def steps(self) -> int:
        return self.micro_batches // self.alignment.gradient_accumulation

    @property
    def group(self) -> int:
        return 2 if self.last_period_s * self.periods >= LONG_CHUNK_S else 3

    @property
    def period_s(self) -> float:
        recent = self.times[-self.group :]
        return statistics.fmean(recent) if recent else self.last_period_s

    def add(self, elapsed: float, compiled: bool) -> None:
        self.micro_batches += self.chunk
        self.last_period_s = elapsed / self.periods
        if compiled:
            self.quiet = 0
            self.drained = False
            self.start_over()
            return
        self.quiet += self.chunk
        if elapsed < CHUNK_S:
            # Short chunks scatter more than long ones, so the two are never compared.
            self.periods *= 2
            self.start_over()
            return
        self.times.append(self.last_period_s)

    def missing(self, measure: Measure, seconds: float) -> str | None:
        """Return what is not yet met, or null."""
        return self._below_minimum(measure, seconds) or self._unsteady()

    def agreement(self) -> str:
        older, newer = self._groups()
        return (
            f"the last two groups of {self.group} chunks agree: {statistics.fmean(older):.4g} and "
            f"{statistics.fmean(newer):.4g} s per period"
        )

    def _below_minimum(self, measure: Measure, seconds: float) -> str | None:
        quiet_periods = self.quiet // self.alignment.period
        if self.steps < measure.warmup_steps:
            return f"{self.steps} of at least {measure.warmup_steps} steps were run"
        if seconds < measure.warmup_s:
            return f"{seconds:.3g} s of at least {measure.warmup_s:g} s have passed"
        if quiet_periods < QUIET_PERIODS:
            return f"{quiet_periods} of {QUIET_PERIODS} periods ran without a compilation"
        return None

    def _unsteady(self) -> str | None:
        disagreement = self._disagreement()
        if disagreement is not None:
            return disagreement
        if self.agreed_at is None:
            self.agreed_at = len(self.times)
        if self._truncation_asks_for_more():
            return "the truncation rule (MSER-5) puts the start of the steady state too late"
        return None

    def start_over(self) -> None:
        self.times.clear()
        self.agreed_at = None

    def _groups(self) -> tuple[Sequence[float], Sequence[float]]:
        return self.times[-2 * self.group : -self.group], self.times[-self.group :]

    def _disagreement(self) -> str | None:
        if len(self.times) < 2 * self.group:
            return f"{len(self.times)} of {2 * self.group} chunks to compare were run"
        older, newer = self._groups()
        first, second = statistics.fmean(older), statistics.fmean(newer)
        allowed = max(
            AGREEMENT * (first + second) / 2,
            STANDARD_ERRORS
            * math.sqrt((statistics.variance(older) + statistics.variance(newer)) / self.group),
        )
        if abs(first - second) <= allowed:
            return None
        return (
            f"the last two groups of {self.group} chunks took {first:.4g} and {second:.4g} s per "
            "period"
        )

    def _truncation_asks_for_more(self) -> bool:
        return (
            self.agreed_at is not None
            and TRUNCATION_CHUNKS <= len(self.times) < 2 * self.agreed_at
            and mser(self.times) is None
        )
