"""Two cases held against each other: pairs of launches, and a record of either side.

A pair is one launch of A and one of B with the same seed; who is started first alternates, so that
four launches make a block A B B A. The number of pairs is fixed beforehand: to go on until the
interval looks good would make it promise more than it holds. When one side fails both end. Whether
either side still trains is looked at after the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from bench.backends.temporary import temporary_folder
from bench.measure.noise import CO_TENANT_LIMIT
from bench.results.record import Health, Launch, Outcome, Phase
from bench.results.store import Store, Stored
from bench.run import launching, recording
from bench.run.ending import End
from bench.run.health import HealthPass
from bench.run.launching import Interrupted, Order
from bench.run.plan import Planned, replanned
from bench.run.progressing import Listener, Progressing, order_of
from bench.run.rounds import examine
from bench.run.turns import TURN_S, Play
from bench.worker.job import Event

_MOST_WINDOWS = 1000


class Contest:
    """One comparison, from the first launch to the two records.

    Args:
        a: The side that the other is measured by.
        b: The side that may be faster or slower.
        store: Where records go.
        session: Name of this invocation.
        listener: Told how it goes.
        stop: Asked often; true interrupts.
        play: What runs the two launches of a pair.
        health: What finds out whether a side trains; null: one that keeps its references beside
            the store.
    """

    def __init__(
        self,
        a: Planned,
        b: Planned,
        *,
        store: Store,
        session: str,
        listener: Listener,
        stop: Callable[[], bool],
        play: Play,
        health: HealthPass | None = None,
    ) -> None:
        self.pairs = a.case.measure.launches
        self.a, self.b = Progressing(a, wanted=self.pairs), Progressing(b, wanted=self.pairs)
        self.interrupted = False
        self.failed = False
        self.obstacle: str | None = None
        """Why the pairs cannot be relied on, or are fewer than asked for; null: neither is so."""
        self.complaints: list[str] = []
        """The user's errors: a side names something that does not exist. Nothing is recorded."""
        self._store = store
        self._session = session
        self._listener = listener
        self._stop = stop
        self._play = play
        self._health = health or HealthPass(store.root)
        self._caches = Path()

    def run(self) -> None:
        """Measure the pairs and write the records: `a.stored` and `b.stored`, null where none is.

        Raises:
            StoreError: a record cannot be written.
            TemporaryError: there is nowhere for the compile caches.
        """
        self._listener.begin([self.a, self.b])
        try:
            self._all_pairs()
        finally:
            self._listener.over()

    def _all_pairs(self) -> None:
        refusals = [(case, recording.refused(case.planned)) for case in (self.a, self.b)]
        ends = [(case, end) for case, end in refusals if end is not None]
        with temporary_folder("bench-cache-") as self._caches:
            number = 0
            while number < self.pairs and not ends:
                watch = _Watch(self._listener, self.a, self.b)
                try:
                    ends = self._pair(number, watch)
                except Interrupted as interrupt:
                    self._interrupt(interrupt.phase, watch)
                    return
                if self.complaints:
                    return
                number += 1
            self._finish(ends)

    def _pair(self, number: int, watch: _Watch) -> list[tuple[Progressing, End]]:
        """Measure one pair; returns the sides that failed, with how."""
        if self._stop():
            raise Interrupted(Phase.PLAN)
        cases = (self.a, self.b) if number % 2 == 0 else (self.b, self.a)
        first, second = (order_of(case, number, self._session, self._caches) for case in cases)
        ends = []
        both = self._play(first, second, watch, self._stop)
        for case, played in zip(cases, both, strict=True):
            result = played.result
            case.used_s += played.seconds
            case.launched_here += 1
            if played.resting_share > CO_TENANT_LIMIT:
                self.obstacle = (
                    f"{case.planned.side} used {played.resting_share:.0%} of the CPUs while it "
                    f"rested and the other side computed (limit {CO_TENANT_LIMIT:.0%}): stop its "
                    "threads from spinning (OMP_WAIT_POLICY=PASSIVE, KMP_BLOCKTIME=0), or use "
                    "--one-at-a-time"
                )
            if result is not None:
                self._listener.launched(case, result, played.seconds)
            if isinstance(result, Launch):
                case.launches.append(result)
            elif result is not None and result.bad_case:
                self.complaints.append(f"{case.planned.title}: {result.reason}")
            elif result is not None:
                ends.append((case, result))
        return ends

    def _finish(self, ends: list[tuple[Progressing, End]]) -> None:
        """Record either side; where one has failed, the other has no number of its own either."""
        failed = {case.planned.side: end for case, end in ends}
        self.failed = bool(failed)
        if failed:
            self.obstacle = "; ".join(
                f"{side} has no number ({end.outcome}): {_told(end)}"
                for side, end in failed.items()
            )
        healths = [None if failed else self._examined(case) for case in (self.a, self.b)]
        for case, health in zip((self.a, self.b), healths, strict=True):
            end = failed.get(case.planned.side)
            if failed and end is None:
                end = self._cut_short(case, Phase.PLAN, "given up, as the other side failed,")
            if not failed or case.planned.side in failed or case.launches:
                self._record(case, end, health)

    def _examined(self, case: Progressing) -> Health | None:
        """Return whether a side trains; null: it is not to be found out."""
        if not case.planned.has_health_pass:
            return None
        order = order_of(case, 0, self._session, self._caches)
        health, interrupted = examine(case, order, self._health, self._listener, self._stop)
        self.interrupted = self.interrupted or interrupted
        return health

    def _interrupt(self, phase: Phase, watch: _Watch) -> None:
        self.interrupted = True
        done = min(len(self.a.launches), len(self.b.launches))
        self.obstacle = f"interrupted after {done} of {self.pairs} pairs"
        for case in (self.a, self.b):
            if case.launches or case.planned.side in watch.sides:
                self._record(case, self._cut_short(case, phase, "interrupted"))

    def _cut_short(self, case: Progressing, phase: Phase, why: str) -> End:
        return End(
            outcome=Outcome.INTERRUPTED,
            phase=phase,
            reason=f"{why} after {len(case.launches)} of {self.pairs} launches",
        )

    def _record(self, case: Progressing, end: End | None, health: Health | None = None) -> None:
        planned = case.planned
        variables = launching.environment_of(planned) if planned.probe.available else {}
        record = recording.record_of(planned, self._session, case.launches, end, variables, health)
        path = self._store.append(record)
        case.stored = Stored(record, self._store.root, path.relative_to(self._store.root))
        self._listener.recorded(case)


def _told(end: End) -> str:
    return end.reason if end.remedy is None else f"{end.reason}; {end.remedy}"


class _Watch:
    """Passes on what the launches of one pair do, by side."""

    def __init__(self, listener: Listener, a: Progressing, b: Progressing) -> None:
        self.sides: set[str | None] = set()
        """Those that were started."""
        self._listener = listener
        self._cases = {case.planned.side: case for case in (a, b)}

    def started(self, order: Order) -> None:
        case = self._cases[order.planned.side]
        self.sides.add(order.planned.side)
        self._listener.launch(case, order.round)

    def event(self, order: Order, event: Event) -> None:
        self._listener.event(self._cases[order.planned.side], event)


def side_of(
    planned: Planned,
    name: Literal["A", "B"],
    pairs: int,
    *,
    budget_s: float | None,
    by_turns: bool,
) -> Planned:
    """Return a case as a side of a comparison: so many launches, with windows short enough.

    Args:
        planned: The case.
        name: Of the side.
        pairs: Launches of either side.
        budget_s: Time inside the windows of all its launches; null: a launch gets as much as one of
            `bench run`. Unit: seconds.
        by_turns: Whether the sides compute by turns.
    """
    measure = planned.case.measure
    launch_s = measure.budget_s / measure.launches if budget_s is None else budget_s / pairs
    windows = measure.windows
    if by_turns:
        windows = max(windows, min(_MOST_WINDOWS, math.ceil(launch_s / TURN_S)))
    changed = measure.model_copy(
        update={
            "launches": pairs,
            "max_launches": max(pairs, measure.max_launches),
            "precision_target": None,
            "budget_s": launch_s * pairs,
            "windows": windows,
        }
    )
    case = planned.case.model_copy(update={"measure": changed})
    position = 0 if name == "A" else 1
    return replace(replanned(planned, case), side=name, position=position)
