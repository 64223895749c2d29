"""Two launches of a pair: one after the other, or both alive and computing by turns.

By turns, one side times a window while the other waits, then they change over, and who begins
alternates (A B, B A, ...). Both then meet the same machine down to a fraction of a second: where
two launches after one another differ by 8 %, two that take turns differ by less than 1 %. They
import and build at the same time; from the first step on nothing of either side computes but in its
turn, and what comes behind the last window waits until the other side has its last one too.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from bench.backends import registry
from bench.results.record import Launch
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
    ) -> tuple[Result, Result]:
        """Return how the first and the second ended.

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


class OneAfterTheOther:
    """The second launch starts when the first has ended."""

    def __init__(self, runner: Runner = launching.run) -> None:
        self._runner = runner

    def __call__(
        self, first: Order, second: Order, watcher: Watcher, stop: Callable[[], bool]
    ) -> tuple[Result, Result]:
        """Run both; a second is not started after a first that failed."""
        begun = self._run(first, watcher, stop)
        if isinstance(begun, End):
            return begun, None
        return begun, self._run(second, watcher, stop)

    def _run(self, order: Order, watcher: Watcher, stop: Callable[[], bool]) -> Launch | End:
        watcher.started(order)
        return self._runner(order, lambda event: watcher.event(order, event), stop)


class ByTurns:
    """Both launches are alive and compute by turns."""

    def __init__(self, runner: Runner = launching.run) -> None:
        self._runner = runner

    def __call__(
        self, first: Order, second: Order, watcher: Watcher, stop: Callable[[], bool]
    ) -> tuple[Result, Result]:
        """Run both; when one fails the other is ended."""
        table = _Table(watcher, stop, self._runner)
        # Each waits for as long as the other computes.
        together_s = first.timeout_s + second.timeout_s
        with contextlib.closing(table):
            players = table.seat(first, together_s), table.seat(second, together_s)
            table.play(*players)
        for player in players:
            if player.error is not None:
                raise player.error
        for player in players:
            if player.interrupted is not None and stop():
                raise player.interrupted
        return players[0].result, players[1].result


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
    ended: bool = False
    result: Result = None
    interrupted: Interrupted | None = None
    error: BaseException | None = None


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

    def seat(self, order: Order, timeout_s: float) -> _Player:
        hears, says = os.pipe()
        player = _Player(replace(order, turn=hears, timeout_s=timeout_s), hears, says)
        self.seated.append(player)
        return player

    def play(self, first: _Player, second: _Player) -> None:
        """Let both play to their end, or until one of them has failed."""
        both = (first, second)
        for player in both:
            self._start(player)
        if not all(self._comes_to_wait(player) for player in both):
            return
        turn = 0
        while any(player.waits_for != "end" for player in both):
            for player in both if turn % 2 == 0 else both[::-1]:
                if player.waits_for != "end":
                    self._give_turn(player)
                    if not self._comes_to_wait(player):
                        return
            turn += 1
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
        player.thread = threading.Thread(target=run, name=f"launch {player.order.planned.title}")
        player.thread.start()

    def _stopped(self) -> bool:
        return self.over.is_set() or self.stop()

    def _give_turn(self, player: _Player) -> None:
        player.waits_for = None
        os.write(player.says, b".")

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
            player.ended = True
            return
        if event.waiting is not None:
            player.waits_for = event.waiting
        self.watcher.event(player.order, event)
