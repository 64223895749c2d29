"""One node's part in a run of several, as its command plays it: what it is told, and returns."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.backends.base import World
from bench.backends.host import STAND_IN_VARIABLE
from bench.backends.placed import SRUN, Placed
from bench.cli import joining
from bench.cli.joining import Together
from bench.run import meeting as meetings
from bench.run.agreement import hello
from bench.run.launching import Start
from bench.run.meeting import Meeting
from bench.run.messages import Message, Over, Welcome
from bench.run.plan import Planned
from bench.scenarios.errors import ScenarioError
from tests.run.plans import two_ranks


def never() -> bool:
    return False


@pytest.fixture
def place() -> Meeting:
    return Meeting(3, "127.0.0.1", meetings.free_port("127.0.0.1"), 0, timeout_s=20.0)


def nothing_is_measured(_stopping: Sequence[int], _start: Start) -> int:
    raise AssertionError("it must not come to that")


class Caller(threading.Thread):
    """Another node, which notes what the first one says until it lets this one go."""

    def __init__(self, place: Meeting, planned: Planned) -> None:
        super().__init__()
        self.told: list[Message] = []
        self.welcome = threading.Event()
        self._place, self._planned = place, planned

    def run(self) -> None:
        wire = meetings.reach(self._place, never)
        assert wire is not None
        wire.send(hello(self._place, [self._planned]))
        while wire.gone is None:
            if (message := wire.receive(0.2)) is not None:
                self.told.append(message)
                self.welcome.set()
        wire.close()


def test_a_node_that_planned_otherwise_ends_the_run_on_those_that_had_joined_too(
    place: Meeting,
) -> None:
    joined = Caller(replace(place, node=1), two_ranks(batch_size=1))
    other = Caller(replace(place, node=2), two_ranks(fingerprint="h", batch_size=99))

    def one_after_the_other() -> None:
        joined.start()
        joined.welcome.wait(10)
        other.start()

    calling = threading.Thread(target=one_after_the_other)
    calling.start()
    why = "the case quick / default on cpu differs: batch_size is 1 on the first node, 99 there"
    with pytest.raises(ScenarioError, match=why):
        joining.run(place, [two_ranks(batch_size=1)], nothing_is_measured)
    for thread in (calling, joined, other):
        thread.join(10)
    welcome, over = joined.told
    assert welcome == Welcome(node=1)
    assert isinstance(over, Over)
    assert over.code == 2
    assert over.reason is not None
    assert over.reason.startswith("node 2: it has planned otherwise than the first node")
    assert why in over.reason
    assert other.told == [Over(code=2, reason=f"the first node has planned otherwise: {why}")]


def test_where_no_case_has_a_part_for_other_nodes_nobody_is_waited_for(place: Meeting) -> None:
    with pytest.raises(ScenarioError, match="every case sets nodes=1"):
        joining.run(place, [two_ranks(nodes=1)], nothing_is_measured)


def test_a_caller_that_loses_the_first_node_measures_nothing(
    place: Meeting, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second command on a machine, which has the address of the first node too."""
    listening = meetings.listen(place)
    assert listening is not None
    listening.settimeout(10)

    def hang_up() -> None:
        wire = meetings.accept(listening)
        assert wire is not None
        assert wire.receive(10) is not None
        wire.close()

    with listening:
        answering = threading.Thread(target=hang_up)
        answering.start()
        code = joining.run(replace(place, node=None), [two_ranks()], nothing_is_measured)
        answering.join(10)
    assert code == 4
    assert "has gone before this one had joined" in capsys.readouterr().err


def test_a_port_of_another_program_leaves_the_first_node_its_own_cases(
    place: Meeting, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind((place.host, place.port))
        other.listen()
        assert joining.run(place, [two_ranks()], lambda _stopping, _start: 17) == 17
    assert f"port {place.port} of 127.0.0.1 is taken" in capsys.readouterr().err


@pytest.mark.parametrize(
    "asked",
    [
        Together(1, 0, None, None),
        Together(1, None, "10.0.0.1:29500", None),
        Together(1, None, None, 5.0),
    ],
)
def test_one_node_meets_nobody(asked: Together) -> None:
    with pytest.raises(ScenarioError, match="--nodes 1: is this machine alone"):
        joining.meeting(asked, None)


@pytest.mark.parametrize(
    ("tasks", "machines", "started"),
    [(2, 1, "has started its 2 tasks on one machine"), (4, 2, "has started 4")],
)
def test_srun_must_have_started_one_on_each_node(tasks: int, machines: int, started: str) -> None:
    """Slurm puts two tasks on one large machine, unless it is told how many go on each."""
    world = World(rank=0, size=tasks, local_rank=0, nodes=machines, node=0)
    told = Placed(SRUN, world, local_size=tasks // machines)
    with pytest.raises(ScenarioError, match=started) as caught:
        joining.meeting(Together(2, None, "10.0.0.1:29500", None), told)
    assert "srun --nodes 2 --ntasks-per-node 1" in str(caught.value)


def test_tasks_on_one_machine_may_stand_for_nodes_where_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(STAND_IN_VARIABLE, "1")
    told = Placed(SRUN, World(rank=1, size=2, local_rank=1, nodes=1, node=0), local_size=2)
    assert joining.meeting(Together(2, None, "10.0.0.1:29500", None), told).node == 1


@pytest.mark.parametrize(("given", "waits_s"), [(None, 300.0), (7.0, 7.0)])
def test_how_long_others_are_waited_for(given: float | None, waits_s: float) -> None:
    assert joining.meeting(Together(2, None, "10.0.0.1:29500", given), None).timeout_s == waits_s
