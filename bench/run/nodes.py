"""The nodes of a run, as its first one sees them: who has joined, and starting a launch on them.

All nodes plan by themselves and must come to the same cases under the same software; the first one
then runs the rounds and records, and the others do as they are told (`bench.run.following`).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from bench._version import __version__
from bench.results.record import Outcome, Phase
from bench.run import environment as environments
from bench.run import meeting as meetings
from bench.run import recording
from bench.run.ending import End
from bench.run.group import Group, Ranks, Share
from bench.run.launching import Order, start_here
from bench.run.meeting import Meeting, MeetingError
from bench.run.messages import Begin, Hello, Over, Seen, Welcome
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
        self._refused: dict[tuple[str, str, int], str] = {}
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
        with listening:
            while len(self._members) < self._meeting.nodes - 1 and not stop():
                if time.monotonic() > deadline:
                    break
                if (wire := meetings.accept(listening)) is not None:
                    calling.append((wire, time.monotonic()))
                for call in list(calling):
                    if self._answered(*call, say):
                        calling.remove(call)
        for wire, _ in calling:
            wire.close()
        for node in self._absent():
            say(f"node {node} has not joined within {self._meeting.timeout_s:g} s")

    def nobody_can_join(self, error: MeetingError) -> None:
        """Note that nobody can join, so that cases on several nodes end with this reason."""
        self._problem = str(error)

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
        if (end := self._missing(order.planned, nodes)) is not None:
            return end
        members = [m for m in self._members if m.lost is None][: nodes - 1]
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

    def _admit(self, wire: Wire, told: Hello, say: Callable[[str], None]) -> None:
        free = self._absent()
        node = told.node if told.node is not None else free[0]
        if (why := difference(self._plan, told)) is not None:
            wire.send(Over(code=2, reason=f"the first node has planned otherwise: {why}"))
            wire.close()
            raise ScenarioError(
                f"node {node}",
                f"it has planned otherwise than this one: {why}",
                "start the same command on every node, with the same software and scenario files",
            )
        if node not in free:
            reason = f"there is a node {node} already" if node else "the first node is node 0"
            wire.send(Over(code=2, reason=f"--node-rank {node}: {reason}"))
            wire.close()
            return
        for case in told.cases:
            if case.outcome is not None:
                self._refused.setdefault(_place(case), f"node {node}: {case.reason}")
        wire.send(Welcome(node=node))
        self._members.append(Member(node, wire))
        self._members.sort(key=lambda member: member.node)
        say(f"node {node} has joined ({len(self._members) + 1} of {self._meeting.nodes})")

    def _absent(self) -> list[int]:
        there = {member.node for member in self._members}
        return [node for node in range(1, self._meeting.nodes) if node not in there]

    def _missing(self, planned: Planned, nodes: int) -> End | None:
        """Return the end of a case whose nodes are not all there."""
        place = (planned.case.scenario, planned.backend, planned.position)
        if (reason := self._refused.get(place)) is not None:
            return _unavailable(reason, "look into that node: `bench doctor` says what it has")
        for member in self._members:
            if member.lost is None and (why := member.wire.gone) is not None:
                member.lost = why
                member.wire.close()
        if sum(member.lost is None for member in self._members) >= nodes - 1:
            return None
        if self._problem is not None:
            return _unavailable(self._problem, None)
        gone = [f"node {m.node} has gone: {m.lost}" for m in self._members if m.lost is not None]
        each = planned.case.knobs.local_processes
        never = [
            f"{title(node, range(node * each, (node + 1) * each))} has not joined at "
            f"{self._meeting.place} within {self._meeting.timeout_s:g} s"
            for node in self._absent()
        ]
        return _unavailable(
            "; ".join([*gone, *never]),
            "start the same command there, and look whether it reaches the first node (name, "
            "firewall, security group)",
        )


def hello(meeting: Meeting, planned: Sequence[Planned]) -> Hello:
    """Return what a node says of itself and of its plan."""
    cases = []
    for case in planned:
        end = recording.refused(case)
        cases.append(
            Seen(
                scenario=case.case.scenario,
                case=case.case.case,
                backend=case.backend,
                position=case.position,
                fingerprint=case.keys.fingerprint,
                # What the device refuses is refused on all nodes alike, and has its row.
                outcome=end.outcome if end is not None and not case.probe.available else None,
                reason=None if end is None else end.reason,
            )
        )
    return Hello(
        version=__version__,
        node=meeting.node,
        cases=cases,
        software=_software(planned),
        device=next((p.probe.device_model for p in planned if p.probe.device_model), None),
    )


def difference(first: Hello, other: Hello) -> str | None:
    """Return in what the plans of two nodes differ; null: in nothing."""
    if first.version != other.version:
        return f"accelbench {first.version} on the first node, {other.version} there"
    for name in sorted({*first.software, *other.software}):
        here, there = first.software.get(name), other.software.get(name)
        if here != there:
            return f"{name} {here or 'is missing'} on the first node, {there or 'none'} there"
    if [_place(case) for case in first.cases] != [_place(case) for case in other.cases]:
        return f"{len(first.cases)} cases on the first node, {len(other.cases)} or others there"
    for one, two in zip(first.cases, other.cases, strict=True):
        # A node without the device cannot know its fingerprint: that is a row, and no mistake.
        known = one.outcome is None and two.outcome is None
        if known and one.fingerprint != two.fingerprint:
            device = f", on {first.device} and on {other.device}" * (first.device != other.device)
            return f"the case {one.scenario} / {one.case} on {one.backend} differs{device}"
    return None


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


def _software(planned: Sequence[Planned]) -> dict[str, str]:
    told = planned[0].versions if planned else None
    return dict(environments.versions() if told is None else told)


def _place(case: Seen) -> tuple[str, str, int]:
    return case.scenario, case.backend, case.position


def _unavailable(reason: str, remedy: str | None) -> End:
    return End(outcome=Outcome.UNAVAILABLE, phase=Phase.START, reason=scrub(reason), remedy=remedy)
