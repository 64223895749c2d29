"""Two launches of a pair: one after the other, or both alive and computing by turns.

By turns, one side times a window while the other waits, and the next turn is for the one that has
measured the smaller share of its windows; of two that are equal, for the one that went last (B A A
B B A ...), so that neither always goes first, and fewer, longer windows are spread over the other
side's. Both meet the same machine down to a fraction of a second: where the ratios of equal pairs
after one another scatter by 8 %, those of pairs that take turns on the same CPUs scatter by 1 to
2 % (benchmarks/README.md). They import and build at the same time; from the first step on nothing
of either side computes but in its turn, and what comes behind the last window waits until the other
side has its last one too.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from bench.backends import host, registry
from bench.results.record import Launch, Outcome, Phase
from bench.run import launching
from bench.run.ending import End
from bench.run.launching import Interrupted, Order
from bench.run.plan import Planned
from bench.run.rounds import Runner
from bench.worker.job import Event

TURN_S = 0.06
"""Aimed at for a window that is a turn. Shorter turns pay more for changing over; two copies of one
loop that take turns of 10 ms agree to 0.2 %, and with turns of 0.5 s to 2 %. Unit: seconds."""
_TICK_S = 0.2

Result = Launch | End | None
"""Null: the launch was ended because the other side had failed."""


@dataclass(frozen=True)
class Played:
    """How one launch of a pair went."""

    result: Result
    seconds: float
    """Wall time that was its own: not what it waited for the other side's turns."""
    resting_share: float = 0.0
    """Of the CPUs it may use, used by its ranks while it waited: by threads that spin, say."""


class Watcher(Protocol):
    """Told how the launches of a pair go, always on the calling thread."""

    def started(self, order: Order) -> None:
        """The launch starts."""

    def event(self, order: Order, event: Event) -> None:
        """The launch is so far."""


class Play(Protocol):
    """Runs the two launches of a pair."""

    def __call__(
        self, first: Order, second: Order, watcher: Watcher, stop: Callable[[], bool]
    ) -> tuple[Played, Played]:
        """Return how the first and the second went.

        Raises:
            Interrupted: `stop` said so; what had not ended is gone.
        """


def possible(a: Planned, b: Planned) -> bool:
    """Return whether the two may compute by turns.

    Not where loader workers or a device loader prepare batches while their side rests: its windows
    would then live on what was prepared outside of them.
    """
    return all(
        registry.get(side.backend).two_at_once(side.case.knobs, side.probe)
        and registry.get(side.backend).prefetched(side.case.knobs) == 0
        for side in (a, b)
    )


def cpus_of_pair(first: Order, second: Order) -> tuple[int, ...] | None:
    """Return the CPUs that both launches of a pair are kept on; null: they have their choice.

    Two that stay on a CPU each would differ by what those CPUs' neighbours do, for as long as they
    live. They are of different cores as far as there are cores, as the scheduler would choose.
    Every second pair, so that A B B A meets the same ones, the next CPUs are used. Where the
    launches use all CPUs, or how many is not known, nothing is kept anywhere.
    """
    threads = [_threads(order) for order in (first, second)]
    allowed = host.cpus_by_core()
    if not hasattr(os, "sched_setaffinity") or None in threads:
        return None
    most = max(count for count in threads if count is not None)
    if most >= len(allowed):
        return None
    start = first.index // 2 * most
    return tuple(sorted(allowed[(start + place) % len(allowed)] for place in range(most)))


def _threads(order: Order) -> int | None:
    knobs = order.planned.case.knobs
    of_a_rank = registry.get(order.planned.backend).host_threads(knobs)
    return None if of_a_rank is None else of_a_rank * knobs.processes


class OneAfterTheOther:
    """The second launch starts when the first has ended."""

    def __init__(self, runner: Runner = launching.run) -> None:
        self._runner = runner

    def __call__(
        self, first: Order, second: Order, watcher: Watcher, stop: Callable[[], bool]
    ) -> tuple[Played, Played]:
        """Run both; a second is not started after a first that failed."""
        begun = self._run(first, watcher, stop)
        if isinstance(begun.result, End):
            return begun, Played(None, 0.0)
        return begun, self._run(second, watcher, stop)

    def _run(self, order: Order, watcher: Watcher, stop: Callable[[], bool]) -> Played:
        watcher.started(order)
        begin = time.monotonic()
        result = self._runner(order, lambda event: watcher.event(order, event), stop)
        return Played(result, time.monotonic() - begin)


class ByTurns:
    """Both launches are alive and compute by turns."""

    def __init__(self, runner: Runner = launching.run) -> None:
        self._runner = runner

    def __call__(
        self, first: Order, second: Order, watcher: Watcher, stop: Callable[[], bool]
    ) -> tuple[Played, Played]:
        """Run both; when one fails the other is ended."""
        table = _Table(watcher, stop, self._runner)
        cpus = cpus_of_pair(first, second)
        with contextlib.closing(table):
            players = table.seat(first, cpus), table.seat(second, cpus)
            table.play(*players)
        for player in players:
            if player.error is not None:
                raise player.error
        for player in players:
            if player.interrupted is not None and stop():
                raise player.interrupted
        return players[0].played(), players[1].played()


@dataclass
class _Player:
    """One launch, run by a thread of its own."""

    order: Order
    hears: int
    """The end of the pipe that the launch reads its turns from."""
    says: int
    thread: threading.Thread | None = None
    waits_for: Literal["warm_up", "window", "end"] | None = None
    """Null: it computes, or has ended."""
    share: float = 0.0
    """Of its windows that have been measured."""
    begun: float = 0.0
    """When it began to compute, or started."""
    seconds: float = 0.0
    """That it has computed."""
    rested_from: float = 0.0
    rested_s: float = 0.0
    rested_cpu_s: float = 0.0
    """Of rank 0."""
    ended: bool = False
    result: Result = None
    interrupted: Interrupted | None = None
    error: BaseException | None = None

    def hear(self, event: Event) -> None:
        if event.phase is Phase.MEASURE and event.done is not None and event.total:
            self.share = event.done / event.total
        self.rested_cpu_s += event.rested_cpu_s or 0.0
        if event.waiting is not None:
            self.pause()
            self.waits_for = event.waiting
            self.rested_from = time.monotonic()

    def pause(self) -> None:
        if self.waits_for is None:
            self.seconds += time.monotonic() - self.begun

    def played(self) -> Played:
        result = self.result
        if isinstance(result, End) and result.outcome is Outcome.OOM:
            remedy = "use --one-at-a-time, since both sides are in memory at once"
            both = remedy if result.remedy is None else f"{remedy}; or {result.remedy}"
            result = replace(result, remedy=both)
        cpu_s = self.rested_cpu_s * self.order.planned.case.knobs.processes
        # The other side computes on these: what spins there takes from it, however many more
        # there are.
        cpus = len(self.order.cpus) if self.order.cpus else host.cpus_visible()
        return Played(result, self.seconds, cpu_s / (self.rested_s * cpus) if self.rested_s else 0)


@dataclass
class _Table:
    """Where two launches play: whose turn it is, and what they said."""

    watcher: Watcher
    stop: Callable[[], bool]
    runner: Runner
    said: queue.SimpleQueue[tuple[_Player, Event | None]] = field(default_factory=queue.SimpleQueue)
    """Events in order; null: the launch has ended."""
    over: threading.Event = field(default_factory=threading.Event)
    seated: list[_Player] = field(default_factory=list)

    def seat(self, order: Order, cpus: tuple[int, ...] | None) -> _Player:
        hears, says = os.pipe()
        player = _Player(replace(order, turn=hears, cpus=cpus), hears, says)
        self.seated.append(player)
        return player

    def play(self, first: _Player, second: _Player) -> None:
        """Let both play to their end, or until one of them has failed."""
        both = (first, second)
        for player in both:
            self._start(player)
        if not all(self._comes_to_wait(player) for player in both):
            return
        # The warm-ups, then the windows.
        if not (self._takes_turn(first) and self._takes_turn(second)):
            return
        last = second
        while playing := [player for player in both if player.waits_for != "end"]:
            last = _next(playing, last)
            if not self._takes_turn(last):
                return
        for player in both:
            self._give_turn(player)
            while not player.ended:
                self._listen()

    def close(self) -> None:
        """End what still runs, and close the pipes."""
        self.over.set()
        for player in self.seated:
            if player.thread is not None:
                player.thread.join()
            os.close(player.hears)
            os.close(player.says)

    def _start(self, player: _Player) -> None:
        def run() -> None:
            try:
                player.result = self.runner(
                    player.order, lambda event: self.said.put((player, event)), self._stopped
                )
            except Interrupted as interrupt:
                player.interrupted = interrupt
            except BaseException as error:
                # Raised again on the calling thread.
                player.error = error
            finally:
                self.said.put((player, None))

        self.watcher.started(player.order)
        # A rank dies with the thread that started it, so this one lives as long as the launch.
        player.begun = time.monotonic()
        player.thread = threading.Thread(target=run, name=f"launch {player.order.planned.title}")
        player.thread.start()

    def _stopped(self) -> bool:
        return self.over.is_set() or self.stop()

    def _takes_turn(self, player: _Player) -> bool:
        """Return true once the turn is over, false once either has ended."""
        self._give_turn(player)
        return self._comes_to_wait(player)

    def _give_turn(self, player: _Player) -> None:
        player.waits_for = None
        player.begun = time.monotonic()
        player.rested_s += player.begun - player.rested_from
        os.write(player.says, b"." * player.order.planned.case.knobs.processes)

    def _comes_to_wait(self, player: _Player) -> bool:
        """Return true once the launch waits for its turn, false once either has ended."""
        while not any(one.ended for one in self.seated):
            if player.waits_for is not None:
                return True
            self._listen()
        return False

    def _listen(self) -> None:
        """Take note of the next event, or of a moment without one."""
        try:
            player, event = self.said.get(timeout=_TICK_S)
        except queue.Empty:
            return
        if event is None:
            player.pause()
            player.ended = True
            return
        player.hear(event)
        self.watcher.event(player.order, event)


def _next(players: Sequence[_Player], last: _Player) -> _Player:
    """Return who has measured the smallest share; of two that are equal, who went last."""
    return min(players, key=lambda player: (player.share, player is not last))
