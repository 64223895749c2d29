"""A node of a run that is not its first: it starts ranks when told, and tells what becomes of them.

It records nothing and decides nothing. When the first node goes, its ranks go.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.backends import registry
from bench.backends.drives import launch_folder
from bench.backends.temporary import TemporaryError, temporary_folder, told
from bench.run import ending, health, launching, stacks
from bench.run import meeting as meetings
from bench.run.agreement import hello
from bench.run.exits import EXIT_CASE, EXIT_INTERRUPTED
from bench.run.group import Group, Share
from bench.run.launching import Order
from bench.run.meeting import Meeting
from bench.run.messages import (
    Begin,
    Ended,
    Gone,
    Heard,
    NotBegun,
    Over,
    Stacks,
    Stop,
    Tails,
    Welcome,
)
from bench.run.nodes import meeting_environment
from bench.run.plan import Planned
from bench.run.scrubbing import scrub
from bench.run.wire import Wire
from bench.worker.job import JOB_FILE, JOB_VARIABLE, Failure, FailureKind

_TICK_S = 0.1


class Follower:
    """This node, as the first one has it.

    Args:
        meeting: Where the nodes meet.
        planned: The cases of this node.
        say: Told how it goes.
        stop: Asked often; true ends this node's part.
    """

    def __init__(
        self,
        meeting: Meeting,
        planned: Sequence[Planned],
        say: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        self._meeting = meeting
        self._planned = planned
        self._say = say
        self._stop = stop
        self._caches = Path()

    def run(self) -> int:
        """Do as the first node says until it is over; returns the exit code.

        Raises:
            MeetingError: the first node cannot be reached, or does not let this one join.
            TemporaryError: there is nowhere for the compile caches.
        """
        wire = meetings.reach(self._meeting, self._stop)
        if wire is None:
            return EXIT_INTERRUPTED
        with contextlib.closing(wire), temporary_folder("bench-cache-") as self._caches:
            wire.send(hello(self._meeting, self._planned))
            return self._join(wire) or self._follow(wire)

    def _join(self, wire: Wire) -> int:
        """Return 0 once this node has joined, or with what its command returns."""
        deadline = time.monotonic() + self._meeting.timeout_s
        while not self._stop():
            message = wire.receive(_TICK_S)
            if isinstance(message, Welcome):
                self._say(f"this is node {message.node} of {self._meeting.nodes}")
                return 0
            if isinstance(message, Over):
                return self._over(message)
            if wire.gone is not None or time.monotonic() > deadline:
                raise meetings.why_gone(self._meeting, wire)
        return EXIT_INTERRUPTED

    def _follow(self, wire: Wire) -> int:
        while not self._stop():
            message = wire.receive(_TICK_S)
            if isinstance(message, Over):
                return self._over(message)
            if isinstance(message, Begin):
                self._launch(wire, message)
            if wire.gone is not None:
                self._say(f"the first node has gone: {wire.gone}")
                return EXIT_CASE
        return EXIT_INTERRUPTED

    def _over(self, message: Over) -> int:
        if message.reason is not None:
            print(f"bench: {message.reason}", file=sys.stderr)
        return message.code

    def _launch(self, wire: Wire, begin: Begin) -> None:
        """Run this node's part of a launch until the first node ends it, or is gone."""
        failures: list[Failure] = []
        tails: dict[int, str] = {}
        kills = ending.oom_kills()
        try:
            planned = self._case(begin)
            drive = planned.case.knobs.zero.nvme_path
            with launch_folder("bench-launch-", drive) as folder:
                group = self._group(wire, planned, begin, folder)
                try:
                    self._watch(wire, group, folder)
                finally:
                    group.kill()
                tails = _tails(folder, group.ranks)
                failures = [_for_others(f) for f in ending.failures_of(folder, group.ranks)]
        except (_CannotBegin, TemporaryError) as reason:
            wire.send(NotBegun(reason=scrub(str(reason))))
            _wait_for_the_stop(wire, self._stop)
        wire.send(
            Gone(
                failures=failures,
                tails=tails,
                killed_for_memory=ending.oom_kills() > kills,
                now=time.time(),
            )
        )

    def _group(self, wire: Wire, planned: Planned, begin: Begin, folder: Path) -> Group:
        """Start this node's ranks.

        Raises:
            _CannotBegin: this node has no room for them.
        """
        try:
            order = self._order(planned, begin)
            job = launching.job_of(order, folder).model_copy(
                update={"purpose": begin.purpose, "diagnose": begin.diagnose}
            )
            job_path = folder / JOB_FILE
            job_path.write_text(job.model_dump_json(by_alias=True), encoding="utf-8")
            environment = launching.environment_of(planned) | order.cache_environment
            environment[JOB_VARIABLE] = str(job_path)
            share = Share(planned.case.knobs.local_processes, begin.node, begin.nodes)
            self._say(f"{planned.title}: ranks {share.first} to {share.first + share.ranks - 1}")
            return Group(
                launching.worker_command(planned),
                meeting_environment(begin, wire.own_address, environment),
                share,
                folder,
            )
        except OSError as error:
            raise _CannotBegin(told(error)) from error

    def _case(self, begin: Begin) -> Planned:
        place = (begin.scenario, begin.backend, begin.position)
        for planned in self._planned:
            if (planned.case.scenario, planned.backend, planned.position) == place:
                found = health.passing(planned) if begin.purpose == "health" else planned
                if found.keys.fingerprint == begin.fingerprint:
                    return found
        raise _CannotBegin("it has planned the case otherwise")

    def _order(self, planned: Planned, begin: Begin) -> Order:
        # Every node keeps compiled code of its own: nothing is shared but the network.
        folder = self._caches / f"{planned.keys.fingerprint}-{planned.position}"
        backend, case = registry.get(planned.backend), planned.case
        variables = backend.compile_cache(case.knobs, planned.probe, str(folder))
        if variables is not None:
            folder.mkdir(parents=True, exist_ok=True)
        return Order(
            planned=planned,
            index=begin.index,
            seed=begin.seed,
            session=begin.session,
            round=begin.round,
            timeout_s=case.measure.timeout_s,
            cache=begin.cache,
            cache_environment=variables or {},
        )

    def _watch(self, wire: Wire, group: Group, folder: Path) -> None:
        """Tell of the ranks until the first node ends them, or there is nobody to tell."""
        known: list[int | None] = [None] * len(group.codes)
        while wire.gone is None and not self._stop():
            for event in group.listen(_TICK_S):
                wire.send(Heard(event=event))
            group.ended()
            for local, code in enumerate(group.codes):
                if code is not None and known[local] is None:
                    wire.send(Ended(rank=group.ranks[local], code=code))
            known = list(group.codes)
            message = wire.receive()
            if isinstance(message, Stop):
                return
            if isinstance(message, Stacks):
                waits = group.ask_for_stacks()
                tails = {rank: stacks.tail(folder, rank) or "" for rank in group.ranks}
                wire.send(Tails(tails=tails, waits=waits))


class _CannotBegin(Exception):  # noqa: N818 - told to the first node
    """The ranks of a launch cannot be started here."""


def _wait_for_the_stop(wire: Wire, stop: Callable[[], bool]) -> None:
    while wire.gone is None and not stop():
        if isinstance(wire.receive(_TICK_S), Stop):
            return


def _tails(folder: Path, ranks: range) -> dict[int, str]:
    found = {rank: ending.log_tail(folder, rank) for rank in ranks}
    return {rank: tail for rank, tail in found.items() if tail is not None}


def _for_others(failure: Failure) -> Failure:
    """Return a failure without this machine's folders and names, which the first node has not."""
    if failure.kind is FailureKind.BAD_CASE:
        return failure
    return failure.model_copy(update={"message": scrub(failure.message)})
