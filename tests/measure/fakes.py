"""A clock, a device and ranks whose every second is known, with the quirks of the real ones.

The device is asynchronous: issuing work costs no time, only a fence waits. Where it cuts graphs, it
does so as torch_xla's loader does: when micro-batch N, 2N, ... is asked for, before handing it out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from bench.results.record import Phase
from bench.scenarios.schema import Measure

TICK = 0.0625
"""A micro-batch's usual time: a power of two, so that sums are exact. Unit: seconds."""


def measure(**changes: Any) -> Measure:
    return Measure(**{"warmup_steps": 1, "warmup_s": 0.0, **changes})


class FakeClock:
    def __init__(self, log: list[str] | None = None) -> None:
        self.time = 1000.0
        self.log = [] if log is None else log

    def now(self) -> float:
        self.log.append("clock")
        return self.time

    def spend(self, seconds: float) -> None:
        self.time += seconds


class FakeTarget:
    """Micro-batch i (from 0) takes `cost(i)` seconds on the device.

    `compile_s` gives host compilations by micro-batch; `cuts_every` makes it a graph device, which
    compiles every graph it has not seen.
    """

    def __init__(
        self,
        clock: FakeClock,
        cost: Callable[[int], float] = lambda _: TICK,
        *,
        compile_s: Mapping[int, float] | None = None,
        cuts_every: int | None = None,
        accumulation: int = 1,
        residual_s: float = 0.0,
    ) -> None:
        self.clock = clock
        self.cost = cost
        self.compile_s = compile_s or {}
        self.cuts_every = cuts_every
        self.accumulation = accumulation
        self.residual_s = residual_s
        self.issued = 0
        self.steps = 0
        self.pending_s = 0.0
        self.compiled = 0
        self.graphs: list[tuple[int, ...]] = []
        self._graph: list[int] = []

    def advance(self, micro_batches: int) -> None:
        self.clock.log.append(f"advance {micro_batches}")
        for _ in range(micro_batches):
            if self.cuts_every is not None:
                if (self.issued + 1) % self.cuts_every == 0:
                    self._cut()
                self._graph.append(self.issued % self.accumulation)
            if self.issued in self.compile_s:
                self.compiled += 1
                self.clock.spend(self.compile_s[self.issued])
            self.pending_s += self.cost(self.issued)
            self.issued += 1
            self.steps += self.issued % self.accumulation == 0

    def discard(self, micro_batches: int) -> None:
        self.clock.log.append(f"discard {micro_batches}")
        self.issued += micro_batches

    def fence(self) -> None:
        self.clock.log.append("fence")
        self._cut()
        self.clock.spend(self.pending_s)
        self.pending_s = 0.0

    def compiles(self) -> int:
        return self.compiled

    def executions(self) -> int | None:
        return None if self.cuts_every is None else len(self.graphs)

    def residual(self) -> float:
        self.clock.log.append("residual")
        return self.residual_s

    def _cut(self) -> None:
        if not self._graph:
            return
        graph = tuple(self._graph)
        self._graph.clear()
        if graph not in self.graphs:
            self.compiled += 1
            self.clock.spend(10.0)
        self.graphs.append(graph)


class QueuedTarget:
    """A step of `step_s` behind a loader that needs `load_s` a batch and keeps `depth` ready.

    The first step compiles for `compile_s`, while the queue fills.
    """

    def __init__(
        self, clock: FakeClock, *, step_s: float, load_s: float, depth: int, compile_s: float = 0.0
    ) -> None:
        self.clock = clock
        self.step_s = step_s
        self.load_s = load_s
        self.depth = depth
        self.compile_s = compile_s
        self.compiled = 0
        self._ready_at = [clock.time + load_s]
        self._drawn_at: list[float] = []

    def advance(self, micro_batches: int) -> None:
        for _ in range(micro_batches):
            self._draw()
            if self.compile_s and not self.compiled:
                self.compiled = 1
                self.clock.spend(self.compile_s)
            self.clock.spend(self.step_s)

    def discard(self, micro_batches: int) -> None:
        for _ in range(micro_batches):
            self._draw()

    def fence(self) -> None:
        pass

    def compiles(self) -> int:
        return self.compiled

    def executions(self) -> int | None:
        return None

    def residual(self) -> float:
        return 0.0

    def _draw(self) -> None:
        self.clock.time = max(self.clock.time, self._ready_at[-1])
        self._drawn_at.append(self.clock.time)
        # The loader goes on when there is room again: when the batch `depth` before was drawn.
        room = self._drawn_at[-self.depth] if len(self._drawn_at) >= self.depth else 0.0
        self._ready_at.append(max(self._ready_at[-1], room) + self.load_s)


class FakeProgress:
    def __init__(self, log: list[str] | None = None) -> None:
        self.log = [] if log is None else log
        self.windows: list[tuple[int, int, float]] = []

    def phase(self, phase: Phase) -> None:
        self.log.append(f"progress {phase}")

    def warm_up(self, steps: int, seconds: float, period_s: float) -> None:
        self.log.append("progress")

    def window(self, done: int, planned: int, seconds: float) -> None:
        self.log.append("progress")
        self.windows.append((done, planned, seconds))

    def voided(self, count: int) -> None:
        self.log.append(f"progress voided {count}")


class FakePeers:
    """One silent other rank: its compilations and its times are scripted."""

    def __init__(
        self,
        log: list[str] | None = None,
        *,
        compiles_at: frozenset[int] = frozenset(),
        slower_by: float = 1.0,
    ) -> None:
        self.log = [] if log is None else log
        self.compiles_at = compiles_at
        self.slower_by = slower_by
        self.asked = 0

    def any(self, flag: bool) -> bool:
        self.asked += 1
        return flag or self.asked - 1 in self.compiles_at

    def most(self, value: float) -> float:
        return value * self.slower_by

    def barrier(self) -> None:
        self.log.append("barrier")


class Ranks:
    """Real threads that agree as processes do: a rank that asks once too often hangs the test."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size, timeout=10)
        self._values = [0.0] * size

    def most(self, rank: int, value: float) -> float:
        self._values[rank] = value
        self._barrier.wait()
        result = max(self._values)
        self._barrier.wait()
        return result

    def run(self, work: Callable[[int, RankPeers], Any]) -> list[Any]:
        """Run the work once per rank, side by side, and return what each gave."""
        results: list[Any] = [None] * len(self._values)
        failures: list[BaseException] = []

        def body(rank: int) -> None:
            try:
                results[rank] = work(rank, RankPeers(self, rank))
            except BaseException as error:
                failures.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=body, args=(rank,)) for rank in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return results


class RankPeers:
    def __init__(self, ranks: Ranks, rank: int) -> None:
        self._ranks = ranks
        self._rank = rank

    def any(self, flag: bool) -> bool:
        return self.most(float(flag)) > 0

    def most(self, value: float) -> float:
        return self._ranks.most(self._rank, value)

    def barrier(self) -> None:
        self.most(0.0)
