"""Who has joined a run of several nodes, and what becomes of cases whose nodes are not there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.backends.base import Probe, Refusal
from bench.results.record import Keys, Outcome, Phase
from bench.run import meeting as meetings
from bench.run.agreement import hello
from bench.run.ending import End
from bench.run.group import Ranks
from bench.run.launching import Order
from bench.run.meeting import AloneError, Meeting
from bench.run.messages import Begin, Ended, Gone, Heard, NotBegun, Over, Stop, Welcome
from bench.run.nodes import Nodes, meeting_environment
from bench.run.plan import Planned
from bench.run.wire import Wire
from bench.scenarios.errors import ScenarioError
from bench.worker.job import Event
from tests.run.plans import two_ranks
from tests.worker.a_job import a_job

SLEEPS = ["/bin/sh", "-c", "sleep 60"]


def never() -> bool:
    return False


def order(planned: Planned) -> Order:
    return Order(planned, index=0, seed=1, session="x", round=0, timeout_s=60, cache="none")


class Joining:
    """A first node that waits, and calls to it."""

    def __init__(self, nodes: int = 2, timeout_s: float = 10.0) -> None:
        port = meetings.free_port("127.0.0.1")
        self.place = Meeting(nodes, "127.0.0.1", port, 0, timeout_s)
        self.planned = [two_ranks(), two_ranks("other", 1, "g")]
        self.nodes = Nodes(self.place, self.planned)
        self.said: list[str] = []
        self.error: BaseException | None = None
        listening = meetings.listen(self.place)
        assert listening is not None
        self.enough = threading.Event()
        """Set: nobody is waited for any longer, as when the time is up."""
        self._thread = threading.Thread(target=self._gather, args=(listening,))
        self._thread.start()
        self.calls: list[Wire] = []

    def _gather(self, listening: object) -> None:
        try:
            self.nodes.gather(
                listening,  # type: ignore[arg-type]
                self.said.append,
                self.enough.is_set,
            )
        except ScenarioError as error:
            self.error = error

    def call(self, node: int | None = None, planned: list[Planned] | None = None) -> Wire:
        place = replace(self.place, node=node)
        wire = meetings.reach(place, never)
        assert wire is not None
        self.calls.append(wire)
        wire.send(hello(place, self.planned if planned is None else planned))
        return wire

    def has_said(self, text: str) -> None:
        """Wait until the first node says so."""
        deadline = time.monotonic() + 30
        while text not in self.said:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def gathered(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.gathered()
        self.nodes.close(0)
        for wire in self.calls:
            wire.close()


@pytest.fixture
def joining() -> Iterator[Callable[..., Joining]]:
    made: list[Joining] = []

    def make(**options: float) -> Joining:
        made.append(Joining(**options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


def started(joined: Joining, planned: Planned, folder: Path) -> End:
    job = a_job(folder, planned.case)
    found = joined.nodes.start(order(planned), job, SLEEPS, {"PATH": "/usr/bin:/bin"})
    assert isinstance(found, End)
    return found


class TestJoining:
    def test_nodes_are_numbered_as_they_say_or_as_they_come(
        self, joining: Callable[..., Joining]
    ) -> None:
        joined = joining(nodes=4)
        second = joined.call(node=2)
        assert second.receive(5) == Welcome(node=2)
        assert joined.call().receive(5) == Welcome(node=1)
        twice = joined.call(node=2)
        told = twice.receive(5)
        assert isinstance(told, Over)
        assert (told.code, told.reason) == (2, "--node-rank 2: there is a node 2 already")
        assert joined.call().receive(5) == Welcome(node=3)
        joined.gathered()
        assert joined.said == [
            "node 2 has joined (2 of 4)",
            "node 1 has joined (3 of 4)",
            "node 3 has joined (4 of 4)",
        ]

    def test_a_node_that_planned_otherwise_ends_the_run_on_both(
        self, joining: Callable[..., Joining]
    ) -> None:
        joined = joining()
        wire = joined.call(planned=[two_ranks(fingerprint="h"), two_ranks("other", 1, "g")])
        told = wire.receive(5)
        joined.gathered()
        assert isinstance(told, Over)
        assert told.code == 2
        assert "the case quick / default on cpu differs" in (told.reason or "")
        assert "node 1: it has planned otherwise than the first node" in str(joined.error)

    def test_who_has_called_and_not_joined_is_told_of_plans_that_differ(
        self, joining: Callable[..., Joining]
    ) -> None:
        joined = joining(nodes=3)
        silent = meetings.reach(replace(joined.place, node=2), never)
        assert silent is not None
        joined.calls.append(silent)
        joined.call(node=1, planned=[two_ranks(fingerprint="h")])
        told = silent.receive(5)
        joined.gathered()
        assert isinstance(told, Over)
        assert "node 1: it has planned otherwise" in str(joined.error)
        assert (told.code, told.reason) == (2, str(joined.error))

    def test_who_comes_when_all_are_there_is_told_so(self, joining: Callable[..., Joining]) -> None:
        joined = joining()
        for _ in range(2):
            wire = meetings.reach(replace(joined.place, node=1), never)
            assert wire is not None
            joined.calls.append(wire)
        # Both are waited for: they say who they are at once.
        deadline = time.monotonic() + 30
        while not all(wire.answered for wire in joined.calls):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for wire in joined.calls:
            wire.send(hello(replace(joined.place, node=None), joined.planned))
        told = [wire.receive(5) for wire in joined.calls]
        joined.gathered()
        assert joined.said == ["node 1 has joined (2 of 2)"]
        assert Welcome(node=1) in told
        assert Over(code=2, reason="all 2 nodes have joined already") in told

    def test_the_place_of_a_node_that_has_gone_is_free_for_it_to_come_again(
        self, joining: Callable[..., Joining]
    ) -> None:
        joined = joining(nodes=3)
        first = joined.call(node=1)
        assert first.receive(5) == Welcome(node=1)
        first.close()
        joined.has_said("node 1 has gone: its connection was closed")
        assert joined.call(node=1).receive(5) == Welcome(node=1)
        assert joined.call(node=2).receive(5) == Welcome(node=2)
        joined.gathered()
        assert joined.said == [
            "node 1 has joined (2 of 3)",
            "node 1 has gone: its connection was closed",
            "node 1 has joined (2 of 3)",
            "node 2 has joined (3 of 3)",
        ]

    def test_what_became_of_one_that_does_not_come_again_is_in_the_row(
        self, joining: Callable[..., Joining], tmp_path: Path
    ) -> None:
        joined = joining(nodes=3)
        assert joined.call(node=1).receive(5) == Welcome(node=1)
        joined.calls[0].close()
        joined.has_said("node 1 has gone: its connection was closed")
        joined.enough.set()
        joined.gathered()
        planned = two_ranks(processes=3, nodes=3)
        assert started(joined, planned, tmp_path).reason == (
            "node 1 has gone: its connection was closed; node 2 (rank 2) has not joined within 10 s"
        )

    def test_who_is_told_to_stop_waiting_complains_of_nobody(self) -> None:
        place = Meeting(2, "127.0.0.1", meetings.free_port("127.0.0.1"), 0)
        listening = meetings.listen(place)
        assert listening is not None
        said: list[str] = []
        Nodes(place, [two_ranks()]).gather(listening, said.append, lambda: True)
        assert said == []

    def test_who_never_joins_makes_rows_that_name_node_ranks_and_place(
        self, joining: Callable[..., Joining], tmp_path: Path
    ) -> None:
        joined = joining(timeout_s=0.5)
        joined.gathered()
        end = started(joined, joined.planned[0], tmp_path)
        assert (end.outcome, end.phase) == (Outcome.UNAVAILABLE, Phase.START)
        assert end.reason == "node 1 (rank 1) has not joined within 0.5 s"
        assert "firewall" in (end.remedy or "")
        assert joined.said == [f"node 1 has not joined at {joined.place.place} within 0.5 s"]

    def test_who_says_nothing_of_itself_does_not_keep_the_others_out(
        self, joining: Callable[..., Joining]
    ) -> None:
        joined = joining()
        silent = meetings.reach(replace(joined.place, node=1), never)
        assert silent is not None
        joined.calls.append(silent)
        assert joined.call().receive(5) == Welcome(node=1)

    def test_a_port_that_is_taken_makes_rows(self, tmp_path: Path) -> None:
        place = Meeting(2, "127.0.0.1", 29500, 0)
        nodes = Nodes(place, [two_ranks()])
        nodes.nobody_can_join(AloneError(meetings.taken, place))
        found = nodes.start(order(two_ranks()), a_job(tmp_path), SLEEPS, {})
        assert isinstance(found, End)
        assert found.outcome is Outcome.UNAVAILABLE
        assert found.reason.startswith("port 29500 of <host> is taken by another program")

    def test_what_one_node_has_not_is_a_row_of_that_case_alone(
        self, joining: Callable[..., Joining], tmp_path: Path
    ) -> None:
        joined = joining()
        broken = Probe(backend="cpu", available=False, reason="its driver does not answer")
        theirs = [
            replace(joined.planned[0], probe=broken, keys=Keys(work="", series="", fingerprint="")),
            joined.planned[1],
        ]
        assert joined.call(planned=theirs).receive(5) == Welcome(node=1)
        joined.gathered()
        end = started(joined, joined.planned[0], tmp_path)
        assert (end.outcome, end.reason) == (
            Outcome.UNAVAILABLE,
            "node 1: its driver does not answer",
        )

    def test_what_one_node_refuses_is_a_row_though_the_first_would_run_it(
        self, joining: Callable[..., Joining], tmp_path: Path
    ) -> None:
        joined = joining()
        refusal = Refusal(knob="processes", value=2, reason="this machine has one device")
        theirs = [replace(joined.planned[0], refusals=[refusal]), joined.planned[1]]
        assert joined.call(planned=theirs).receive(5) == Welcome(node=1)
        joined.gathered()
        end = started(joined, joined.planned[0], tmp_path)
        assert end.outcome is Outcome.UNAVAILABLE
        assert end.reason == "node 1: processes=2: this machine has one device"
        assert "bench doctor" in (end.remedy or "")

    def test_a_node_that_cannot_run_a_case_leaves_it_to_those_that_can(
        self, joining: Callable[..., Joining], tmp_path: Path
    ) -> None:
        joined = joining(nodes=3)
        refusal = Refusal(knob="processes", value=2, reason="this machine has one device")
        theirs = [replace(joined.planned[0], refusals=[refusal]), joined.planned[1]]
        unable, able = joined.call(node=1, planned=theirs), joined.call(node=2)
        assert (unable.receive(5), able.receive(5)) == (Welcome(node=1), Welcome(node=2))
        joined.gathered()
        job = a_job(tmp_path, joined.planned[0].case)
        ranks = joined.nodes.start(order(joined.planned[0]), job, SLEEPS, {"PATH": "/usr/bin:/bin"})
        assert not isinstance(ranks, End)
        begin = able.receive(5)
        assert isinstance(begin, Begin)
        assert begin.node == 1
        able.close()
        ranks.kill()
        assert unable.receive() is None
        assert ranks.lost == "node 2 (rank 1) has gone: its connection was closed"

    def test_only_as_many_are_missed_as_the_case_needs(
        self, joining: Callable[..., Joining], tmp_path: Path
    ) -> None:
        joined = joining(nodes=4)
        assert joined.call(node=2).receive(5) == Welcome(node=2)
        joined.enough.set()
        joined.gathered()
        planned = two_ranks(processes=6, nodes=3)
        assert started(joined, planned, tmp_path).reason == (
            "node 1 (ranks 4 to 5) has not joined within 10 s"
        )


class TestOneLaunch:
    def begun(self, joined: Joining, folder: Path) -> tuple[Wire, Ranks]:
        wire = joined.call()
        assert wire.receive(5) == Welcome(node=1)
        joined.gathered()
        job = a_job(folder, joined.planned[0].case)
        ranks = joined.nodes.start(order(joined.planned[0]), job, SLEEPS, {"PATH": "/usr/bin:/bin"})
        assert not isinstance(ranks, End)
        begin = wire.receive(5)
        assert isinstance(begin, Begin)
        assert (begin.node, begin.nodes, begin.fingerprint, begin.seed) == (1, 2, "f", 1)
        assert begin.host == "127.0.0.1"
        return wire, ranks

    def test_what_the_other_node_tells_is_as_if_it_were_here(
        self, joining: Callable[..., Joining], tmp_path: Path
    ) -> None:
        wire, ranks = self.begun(joining(), tmp_path)
        event = Event(rank=1, phase=Phase.BUILD)
        stranger = Event(rank=7, phase=Phase.BUILD)
        for message in (Heard(event=stranger), Heard(event=event), Ended(rank=1, code=3)):
            wire.send(message)
        heard: list[Event] = []
        while not ranks.failed():
            heard += ranks.listen(0.1)
        assert heard == [event]
        assert ranks.codes == [None, 3]
        assert not ranks.ended()

        def end_it() -> None:
            assert isinstance(wire.receive(10), Stop)
            wire.send(Gone(failures=[], tails={1: "last words"}, killed_for_memory=True, now=5.0))

        answering = threading.Thread(target=end_it)
        answering.start()
        ranks.kill()
        answering.join(10)
        assert (tmp_path / "rank-1.log").read_text(encoding="utf-8") == "last words"
        assert ranks.killed_for_memory
        assert ranks.lost is None

    @pytest.mark.parametrize("says", [None, NotBegun(reason="too many processes run")])
    def test_a_node_that_goes_or_cannot_begin_is_named_with_its_ranks(
        self, joining: Callable[..., Joining], tmp_path: Path, says: NotBegun | None
    ) -> None:
        joined = joining()
        wire, ranks = self.begun(joined, tmp_path)
        if says is None:
            wire.close()
        else:
            wire.send(says)
            wire.send(Gone(failures=[], tails={}, killed_for_memory=False, now=0.0))
        while not ranks.failed():
            list(ranks.listen(0.1))
        ranks.kill()
        assert ranks.lost == (
            "node 1 (rank 1) has gone: its connection was closed"
            if says is None
            else "node 1 (rank 1) could not start its ranks: too many processes run"
        )
        if says is None:
            end = started(joined, joined.planned[1], tmp_path)
            assert end.outcome is Outcome.UNAVAILABLE
            assert end.reason == "node 1 has gone: its connection was closed"


def test_ranks_meet_by_the_interface_that_leads_to_the_first_node_unless_one_is_named() -> None:
    begin = Begin(
        scenario="s",
        backend="cpu",
        position=0,
        fingerprint="f",
        purpose="measure",
        node=1,
        nodes=2,
        index=0,
        seed=0,
        session="x",
        round=0,
        diagnose=False,
        cache="none",
        host="10.0.0.1",
        port=4711,
    )
    found = meeting_environment(begin, "127.0.0.1", {"A": "b"})
    assert found == {
        "A": "b",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "4711",
        "BENCH_MEETING": "env://",
        "GLOO_SOCKET_IFNAME": meetings.interface("127.0.0.1"),
    }
    named = meeting_environment(begin, "127.0.0.1", {"GLOO_SOCKET_IFNAME": "eth7"})
    assert named["GLOO_SOCKET_IFNAME"] == "eth7"
