"""The nodes of a run, as its first one sees them: who has joined, and starting a launch on them.

All nodes plan by themselves and must come to the same cases under the same software; the first one
then runs the rounds and records, and the others do as they are told (`bench.run.following`).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from bench.results.record import Outcome, Phase
from bench.run import meeting as meetings
from bench.run.agreement import difference, hello, place_of
from bench.run.ending import End
from bench.run.exits import EXIT_USAGE
from bench.run.group import Group, Ranks, Share
from bench.run.launching import Order, start_here
from bench.run.meeting import AloneError, Meeting
from bench.run.messages import Begin, Hello, Over, Welcome
from bench.run.plan import Planned
from bench.run.scrubbing import scrub
from bench.run.spread import Member, Spread, tell_to_begin, title
from bench.run.wire import Wire
from bench.scenarios.errors import ScenarioError
from bench.worker.job import MEETING_VARIABLE, Job

_HELLO_S = 10.0
"""Who connects and does not say who it is has no longer than this."""


class Nodes:
    """The other nodes of a run.

    Args:
        meeting: Where they meet.
        planned: The cases of this node.
    """

    def __init__(self, meeting: Meeting, planned: Sequence[Planned]) -> None:
        self._meeting = meeting
        self._plan = hello(meeting, planned)
        self._members: list[Member] = []
        self._refused: dict[int, dict[tuple[str, str, int], str]] = {}
        """By member, why it cannot run which cases."""
        self._left: dict[int, str] = {}
        """What became of those that had joined, and went while others were waited for."""
        self._problem: str | None = None
        """Why nobody can join; null: somebody could."""

    def gather(
        self,
        listening: socket.socket,
        say: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> None:
        """Wait until all nodes have joined, or the time is up.

        Args:
            listening: Where they call; it is closed.
            say: Told who has joined.
            stop: Asked often; true ends the waiting.

        Raises:
            ScenarioError: a node has planned other cases, or has other software.
        """
        deadline = time.monotonic() + self._meeting.timeout_s
        calling: list[tuple[Wire, float]] = []
        try:
            with listening:
                while time.monotonic() <= deadline and not stop():
                    self._forget_the_gone(say)
                    if not self._absent():
                        break
                    if (wire := meetings.accept(listening)) is not None:
                        calling.append((wire, time.monotonic()))
                    for call in list(calling):
                        if self._answered(*call, say):
                            calling.remove(call)
        except ScenarioError as error:
            # Those that have joined are let go by whoever called this; these have not.
            for wire, _ in calling:
                wire.send(Over(code=EXIT_USAGE, reason=str(error)))
                wire.close()
            raise
        for wire, _ in calling:
            if not self._absent():
                wire.send(self._full())
            wire.close()
        if stop():
            return
        for node in self._absent():
            say(
                f"node {node} has not joined at {self._meeting.place} within "
                f"{self._meeting.timeout_s:g} s"
            )

    def nobody_can_join(self, error: AloneError) -> None:
        """Note that nobody can join, so that cases on several nodes end with this reason."""
        self._problem = error.recorded

    def start(
        self,
        order: Order,
        job: Job,
        command: list[str],
        environment: Mapping[str, str],
        inherited: Collection[int] = (),
    ) -> Ranks | End:
        """Start the ranks of a launch on as many nodes as its case asks for.

        Returns:
            The ranks; or how the launch ended, where nodes are missing.
        """
        nodes = order.planned.case.knobs.nodes
        if nodes == 1:
            return start_here(order, job, command, environment, inherited)
        able = self._able(order.planned)
        if len(able) < nodes - 1:
            return self._missing(order.planned, len(able))
        members = able[: nodes - 1]
        begin = Begin(
            scenario=order.planned.case.scenario,
            backend=order.planned.backend,
            position=order.planned.position,
            fingerprint=order.planned.keys.fingerprint,
            purpose="health" if job.purpose == "health" else "measure",
            node=0,
            nodes=nodes,
            index=order.index,
            seed=order.seed,
            session=order.session,
            round=order.round,
            diagnose=job.diagnose,
            cache=order.cache,
            host=self._meeting.host,
            port=meetings.free_port(self._meeting.host),
        )
        variables = meeting_environment(begin, members[0].wire.own_address, environment)
        share = Share(order.planned.case.knobs.local_processes, 0, nodes)
        local = Group(command, variables, share, Path(job.folder), inherited)
        tell_to_begin(members, begin)
        return Spread(local, members, Path(job.folder))

    def close(self, code: int, reason: str | None = None) -> None:
        """Let all nodes go.

        Args:
            code: What their commands return.
            reason: Why it ended otherwise than it should; null: it did not.
        """
        for member in self._members:
            if member.lost is None:
                member.wire.send(Over(code=code, reason=reason))
                member.wire.close()
                member.lost = "it was let go"

    def _answered(self, wire: Wire, since: float, say: Callable[[str], None]) -> bool:
        """Return whether a call needs no more waiting for: it has joined, or never will."""
        message = wire.receive()
        if isinstance(message, Hello):
            self._admit(wire, message, say)
            return True
        if message is None and wire.gone is None and time.monotonic() - since < _HELLO_S:
            return False
        wire.close()  # a port scanner, say
        return True

    def _forget_the_gone(self, say: Callable[[str], None]) -> None:
        """Free the places of those that have gone: who is started again may take them."""
        for member in [m for m in self._members if m.wire.gone is not None]:
            self._left[member.node] = f"node {member.node} has gone: {member.wire.gone}"
            say(self._left[member.node])
            member.wire.close()
            self._members.remove(member)

    def _admit(self, wire: Wire, told: Hello, say: Callable[[str], None]) -> None:
        free = self._absent()
        if not free:
            wire.send(self._full())
            wire.close()
            return
        node = told.node if told.node is not None else free[0]
        if (why := difference(self._plan, told)) is not None:
            reason = f"the first node has planned otherwise: {why}"
            wire.send(Over(code=EXIT_USAGE, reason=reason))
            wire.close()
            raise ScenarioError(
                f"node {node}",
                f"it has planned otherwise than the first node: {why}",
                "start the same command on every node, with the same software and scenario files",
            )
        if node not in free:
            reason = f"there is a node {node} already" if node else "the first node is node 0"
            wire.send(Over(code=EXIT_USAGE, reason=f"--node-rank {node}: {reason}"))
            wire.close()
            return
        self._refused[node] = {
            place_of(case): f"node {node}: {case.reason}"
            for case in told.cases
            if case.outcome is not None
        }
        self._left.pop(node, None)
        wire.send(Welcome(node=node))
        self._members.append(Member(node, wire))
        self._members.sort(key=lambda member: member.node)
        say(f"node {node} has joined ({len(self._members) + 1} of {self._meeting.nodes})")

    def _full(self) -> Over:
        nodes = self._meeting.nodes
        return Over(code=EXIT_USAGE, reason=f"all {nodes} nodes have joined already")

    def _absent(self) -> list[int]:
        there = {member.node for member in self._members}
        return [node for node in range(1, self._meeting.nodes) if node not in there]

    def _able(self, planned: Planned) -> list[Member]:
        """Return the nodes that are there and can run a case."""
        place = (planned.case.scenario, planned.backend, planned.position)
        for member in self._members:
            if member.lost is None and (why := member.wire.gone) is not None:
                member.lost = why
                member.wire.close()
        return [
            member
            for member in self._members
            if member.lost is None and place not in self._refused[member.node]
        ]

    def _missing(self, planned: Planned, able: int) -> End:
        """Return the end of a case for which so many nodes are there, and more are needed."""
        if self._problem is not None:
            return _unavailable(self._problem, None)
        place = (planned.case.scenario, planned.backend, planned.position)
        refused = [
            self._refused[member.node][place]
            for member in self._members
            if member.lost is None and place in self._refused[member.node]
        ]
        gone = [f"node {m.node} has gone: {m.lost}" for m in self._members if m.lost is not None]
        knobs = planned.case.knobs
        each = knobs.local_processes
        never = [
            self._left.get(node)
            or f"{title(node, range(at * each, (at + 1) * each))} has not joined within "
            f"{self._meeting.timeout_s:g} s"
            for node, at in zip(self._absent(), range(able + 1, knobs.nodes), strict=False)
        ]
        return _unavailable(
            "; ".join([*refused, *gone, *never]),
            "look into that node: `bench doctor` says what it has"
            if refused
            else "start the same command there, and look whether it reaches the first node (name, "
            "firewall, security group)",
        )


def meeting_environment(
    begin: Begin, own_address: str, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of this node's ranks, by which they meet those of the others.

    Args:
        begin: Names the place.
        own_address: Of this node, as the others reach it.
        environment: Of the ranks otherwise; an interface that is named there stays.
    """
    found = {
        **environment,
        "MASTER_ADDR": begin.host,
        "MASTER_PORT": str(begin.port),
        MEETING_VARIABLE: "env://",
    }
    # By itself gloo takes the address that the machine's own name has, which may be a loopback's.
    if (name := meetings.interface(own_address)) is not None:
        found.setdefault("GLOO_SOCKET_IFNAME", name)
    return found


def _unavailable(reason: str, remedy: str | None) -> End:
    return End(outcome=Outcome.UNAVAILABLE, phase=Phase.START, reason=scrub(reason), remedy=remedy)
