"""Running the planned cases in rounds, and writing a record as soon as a case is done.

One launch of every unfinished case per round, the order reversed every round, so that a machine
that drifts slows all cases alike. Asked to, it first compiles all of them, several at a time
(`bench.run.precompiling`). A case that fails is recorded and leaves the rounds; the others
go on. Health passes come after the round, whose launches they would pull apart. An interrupt ends
the launch under way and records what every started case has so far.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bench.backends.base import Precompilation
from bench.backends.temporary import temporary_folder
from bench.results import health as training_health
from bench.results.record import Health, Launch, Outcome, Phase, Precompiled
from bench.results.scratch import Scratch
from bench.results.statistics import wanted_launches
from bench.results.store import Store, Stored
from bench.run import launching, precompiling, recording
from bench.run.ending import End
from bench.run.health import HealthPass
from bench.run.launching import Interrupted, Order
from bench.run.plan import Planned
from bench.run.precompiling import Filled, Precompiler
from bench.run.progressing import Listener, Progressing, launch_seed, order_of
from bench.worker.job import Event

Runner = Callable[[Order, Callable[[Event], None], Callable[[], bool]], Launch | End]
_TOLD_BY_COMPILING = (Outcome.COMPILE_FAILED, Outcome.UNSUPPORTED)
"""Ends of an untimed run that are the case's own. Any other may have come from what ran beside it,
so that its launch has to find it out again."""


class Rounds:
    """One invocation's cases, from the first launch to the last record.

    Args:
        planned: The cases, in the order of the table.
        store: Where records go.
        scratch: Where finished launches wait for their record.
        session: Name of this invocation.
        listener: Told how it goes.
        stop: Asked often; true interrupts the run.
        runner: What runs one launch.
        health: What finds out whether a case trains; null: one that keeps its references beside
            the store.
        precompiler: What fills the compile caches before the first launch; null: nothing does, and
            the first launch of a case compiles.
    """

    def __init__(
        self,
        planned: Sequence[Planned],
        *,
        store: Store,
        scratch: Scratch,
        session: str,
        listener: Listener,
        stop: Callable[[], bool],
        runner: Runner = launching.run,
        health: HealthPass | None = None,
        precompiler: Precompiler | None = None,
    ) -> None:
        self.cases = [Progressing(p, wanted=p.case.measure.launches) for p in planned]
        self.interrupted = False
        self._store = store
        self._scratch = scratch
        self._session = session
        self._listener = listener
        self._stop = stop
        self._runner = runner
        self._health = health or HealthPass(store.root)
        self._precompiler = precompiler
        self._caches = Path()

    @property
    def recorded(self) -> list[Stored]:
        """The records so far, in the order of the cases."""
        return [case.stored for case in self.cases if case.stored is not None]

    def recover(self) -> None:
        """Take over the launches that an interrupted session left, as `--resume` asks."""
        for case in self.cases:
            if case.planned.runnable:
                case.launches = self._scratch.recover(case.planned.keys.fingerprint)
                if case.launches:
                    case.wanted = wanted_launches(case.launches, case.planned.case.measure)

    def run(self) -> list[Stored]:
        """Run every case to its record.

        Returns:
            The records, in the order of the cases.

        Raises:
            StoreError: a record or a launch cannot be written; what was written before stays.
            TemporaryError: there is nowhere for the compile caches.
        """
        self._listener.begin(self.cases)
        try:
            for case in self.cases:
                end = recording.refused(case.planned)
                if end is not None:
                    self._finish(case, end)
            with temporary_folder("bench-cache-") as self._caches:
                try:
                    self._fill_caches()
                except Interrupted as interrupt:
                    self._interrupt(interrupt.phase)
                else:
                    self._all_rounds()
        finally:
            self._listener.over()
        return self.recorded

    def _fill_caches(self) -> None:
        """Compile all cases that have launches to come; what cannot be compiled is recorded.

        Raises:
            Interrupted: the run was asked to stop; no case has begun.
        """
        if self._precompiler is None:
            return
        cases, orders = [], []
        for case in self.cases:
            if not self._unfinished(case) or self._complete(case):
                continue
            plan = precompiling.how(case.planned)
            if isinstance(plan, Precompilation):
                cases.append(case)
                orders.append((order_of(case, 0, self._session, self._caches), plan))
        if not cases:
            return
        self._listener.precompile(cases)
        # Closed by name: an error's traceback would hold it, and what it runs, for longer.
        with contextlib.closing(self._precompiler.run(orders, self._stop)) as caches:
            for filled in caches:
                self._take(cases[filled.number], orders[filled.number][0], filled)

    def _take(self, case: Progressing, order: Order, filled: Filled) -> None:
        result = filled.result
        self._listener.precompiled(case, result, filled.seconds)
        if isinstance(result, Precompiled):
            case.precompiled = result
        elif result.bad_case:
            case.complaint = f"{case.planned.title}: {result.reason}"
        elif result.outcome in _TOLD_BY_COMPILING:
            self._finish(case, result)
        elif order.cache_folder is not None:
            # Its launch is to say of a cold cache that it is one.
            shutil.rmtree(order.cache_folder, ignore_errors=True)

    def _all_rounds(self) -> None:
        number = 0
        while unfinished := [c for c in self.cases if self._unfinished(c)]:
            for case in unfinished if number % 2 == 0 else reversed(unfinished):
                if self._stop():
                    self._interrupt(Phase.PLAN)
                    return
                try:
                    self._launch(case, number)
                except Interrupted as interrupt:
                    self._interrupt(interrupt.phase, during=case)
                    return
            for case in unfinished:
                if self._unfinished(case) and self._complete(case):
                    self._finish(case, None)
            number += 1

    def _unfinished(self, case: Progressing) -> bool:
        return case.stored is None and case.complaint is None

    def _complete(self, case: Progressing) -> bool:
        return len(case.launches) >= case.wanted

    def _launch(self, case: Progressing, number: int) -> None:
        measure = case.planned.case.measure
        if self._complete(case):
            return  # an earlier session made its launches
        self._listener.launch(case, number)
        begin = time.monotonic()
        result = self._runner(
            order_of(case, number, self._session, self._caches),
            lambda event: self._listener.event(case, event),
            self._stop,
        )
        seconds = time.monotonic() - begin
        case.used_s += seconds
        case.launched_here += 1
        self._listener.launched(case, result, seconds)
        if isinstance(result, End):
            if result.bad_case:
                case.complaint = f"{case.planned.title}: {result.reason}"
            else:
                self._finish(case, result)
            return
        self._scratch.keep(self._session, case.planned.keys.fingerprint, result)
        case.launches.append(result)
        if len(case.launches) == measure.launches:
            case.wanted = wanted_launches(case.launches, case.planned.case.measure)
        if self._complete(case) and not case.planned.has_health_pass:
            self._finish(case, None)

    def _interrupt(self, phase: Phase, during: Progressing | None = None) -> None:
        self.interrupted = True
        for case in self.cases:
            started = bool(case.launches) or case is during
            if not started or not self._unfinished(case):
                continue
            end = End(
                outcome=Outcome.INTERRUPTED,
                phase=phase if case is during else Phase.PLAN,
                reason=f"interrupted after {len(case.launches)} of {case.wanted} launches",
                remedy="repeat the command with --resume to go on from there",
            )
            self._finish(case, None if self._complete(case) else end)

    def _finish(self, case: Progressing, end: End | None) -> None:
        planned, launches = case.planned, case.launches
        health = self._examine(case) if end is None and planned.has_health_pass else None
        variables = launching.environment_of(planned) if planned.probe.available else {}
        record = recording.record_of(
            planned, self._session, launches, end, variables, health, case.precompiled
        )
        path = self._store.append(record)
        case.stored = Stored(record, self._store.root, path.relative_to(self._store.root))
        # An interrupted case keeps its launches, for --resume to take over.
        if end is None or end.outcome is not Outcome.INTERRUPTED:
            self._scratch.discard(self._session, case.planned.keys.fingerprint)
        self._listener.recorded(case)

    def _examine(self, case: Progressing) -> Health:
        order = order_of(case, 0, self._session, self._caches)
        health, interrupted = examine(case, order, self._health, self._listener, self._stop)
        self.interrupted = self.interrupted or interrupted
        return health


def examine(
    case: Progressing,
    order: Order,
    health_pass: HealthPass,
    listener: Listener,
    stop: Callable[[], bool],
) -> tuple[Health, bool]:
    """Return the health of a case whose launches are made, and whether `stop` cut the pass short.

    Args:
        case: Takes the time that the pass needs.
        order: Of any launch of the case.
        health_pass: What finds it out.
        listener: Told how it goes.
        stop: Asked often; true ends the pass.
    """
    asked, interrupted = case.planned.case, False
    listener.health(case)
    begin = time.monotonic()
    # Of the case and not of a launch: its reference must start from the same weights.
    order = replace(order, seed=launch_seed(asked.knobs.seed, 0))
    try:
        health = health_pass.examine(order, lambda event: listener.event(case, event), stop)
    except Interrupted:
        interrupted = True
        health = training_health.unknown(
            asked.measure.health_steps,
            asked.knobs.classes,
            "the run was interrupted before the health pass had ended",
        )
    seconds = time.monotonic() - begin
    case.used_s += seconds
    listener.examined(case, health, seconds)
    return health, interrupted
