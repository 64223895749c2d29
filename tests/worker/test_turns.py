"""The worker's end of computing by turns: what it says, and what it waits for."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from bench.backends import host
from bench.measure.target import ALONE
from bench.measure.turns import UNDIVIDED, Undivided
from bench.results.record import Phase
from bench.worker.events import Events
from bench.worker.job import EVENTS_VARIABLE, TURN_VARIABLE
from bench.worker.turns import Turn, TurnsEnded, of_job
from tests.worker.a_job import a_job


class Parent:
    """Both pipes, from the parent's side."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hears, events = os.pipe()
        turn, self.says = os.pipe()
        monkeypatch.setenv(EVENTS_VARIABLE, str(events))
        monkeypatch.setenv(TURN_VARIABLE, str(turn))
        self.open = {self.hears, self.says, events, turn}

    def close(self, descriptor: int) -> None:
        os.close(descriptor)
        self.open.discard(descriptor)

    def heard(self) -> list[dict[str, object]]:
        os.set_blocking(self.hears, False)
        try:
            return [orjson.loads(line) for line in os.read(self.hears, 1 << 16).splitlines()]
        except BlockingIOError:
            return []


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    found = Parent(monkeypatch)
    yield found
    for descriptor in list(found.open):
        found.close(descriptor)


def turns_of(parent: Parent, tmp_path: Path, rank: int = 0) -> Turn:
    events = Events(rank)
    events.phase = Phase.MEASURE
    job = a_job(tmp_path).model_copy(update={"in_turns": True})
    turn = of_job(job, events, ALONE)
    assert isinstance(turn, Turn)
    return turn


def test_it_says_that_it_waits_goes_on_when_told_and_says_that_it_is_back(
    parent: Parent, tmp_path: Path
) -> None:
    turn = turns_of(parent, tmp_path)
    os.write(parent.says, b".")
    assert turn.wait()
    waiting, back = parent.heard()
    assert waiting == {"rank": 0, "phase": "measure", "waiting": "window"}
    assert 0 <= float(str(back.pop("rested_cpu_s"))) < 1
    assert back == {"rank": 0, "phase": "measure"}


def test_the_beginning_is_announced_as_such(parent: Parent, tmp_path: Path) -> None:
    turn = turns_of(parent, tmp_path)
    os.write(parent.says, b".")
    turn.wait_to_begin()
    assert parent.heard()[0]["waiting"] == "warm_up"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system keeps no affinity")
def test_from_the_first_step_on_all_threads_compute_on_the_cpus_of_the_pair(
    parent: Parent, tmp_path: Path
) -> None:
    before = os.sched_getaffinity(0)
    cpu = max(before)
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    job = a_job(tmp_path).model_copy(update={"in_turns": True, "cpus": (cpu,)})
    try:
        turn = of_job(job, Events(0), ALONE)
        assert os.sched_getaffinity(0) == before
        os.write(parent.says, b".")
        turn.wait_to_begin()
        assert os.sched_getaffinity(0) == {cpu}
        assert os.sched_getaffinity(other.native_id or 0) == {cpu}
        later: list[set[int]] = []
        started = threading.Thread(target=lambda: later.append(os.sched_getaffinity(0)))
        started.start()
        started.join()
        assert later == [{cpu}]
    finally:
        end.set()
        other.join()
        host.keep_on(before)


def test_the_end_is_announced_as_such(parent: Parent, tmp_path: Path) -> None:
    turn = turns_of(parent, tmp_path)
    os.write(parent.says, b".")
    turn.wait_for_the_end()
    assert parent.heard()[0]["waiting"] == "end"


def test_it_waits_until_it_is_told(parent: Parent, tmp_path: Path) -> None:
    turn = turns_of(parent, tmp_path)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (turn.wait(), done.set()))
    thread.start()
    assert not done.wait(0.1)
    os.write(parent.says, b".")
    assert done.wait(5)
    thread.join()


def test_a_parent_that_has_gone_ends_it(parent: Parent, tmp_path: Path) -> None:
    turn = turns_of(parent, tmp_path)
    parent.close(parent.says)
    with pytest.raises(TurnsEnded, match="has gone"):
        turn.wait()


class Two:
    """Two ranks that meet at barriers."""

    def __init__(self) -> None:
        self._both = threading.Barrier(2)

    def any(self, flag: bool) -> bool:
        return flag

    def most(self, value: float) -> float:
        return value

    def barrier(self) -> None:
        self._both.wait(5)


def test_every_rank_says_that_it_waits_and_is_told(parent: Parent, tmp_path: Path) -> None:
    peers, job = Two(), a_job(tmp_path).model_copy(update={"in_turns": True})
    turns = [of_job(job, Events(rank), peers) for rank in (0, 1)]

    def take_two(turn: Turn | Undivided) -> None:
        turn.wait_to_begin()
        turn.wait()

    threads = [threading.Thread(target=take_two, args=(turn,)) for turn in turns]
    for thread in threads:
        thread.start()
    told: list[tuple[object, object]] = []
    for expected in (2, 6):
        while len(told) < expected:
            told += [(event["rank"], event.get("waiting")) for event in parent.heard()]
            time.sleep(0.001)
        os.write(parent.says, b"..")
    for thread in threads:
        thread.join(5)
    told += [(event["rank"], event.get("waiting")) for event in parent.heard()]
    for rank in (0, 1):
        assert [waiting for who, waiting in told if who == rank] == [
            "warm_up",
            None,
            "window",
            None,
        ]


def test_a_launch_on_its_own_takes_no_turns(parent: Parent, tmp_path: Path) -> None:
    alone = of_job(a_job(tmp_path), Events(0), ALONE)
    assert alone is UNDIVIDED
    alone.wait_to_begin()
    assert not alone.wait()
    alone.wait_for_the_end()
    assert parent.heard() == []
