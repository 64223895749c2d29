"""Launches in scratch outlive their session, and are nobody else's while it lives."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest

from bench.results import scratch as scratch_module
from bench.results.record import Launch
from bench.results.scratch import Scratch
from bench.results.store import Store, StoreError
from tests.builders import a_launch, a_record

KILLS = 500


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "results"


def launch(index: int, started: str = "2026-11-20T08:00:00+00:00") -> Launch:
    return a_launch(index=index).model_copy(update={"started": started})


def die_after_keeping(root: Path, session: str, *launches: Launch) -> None:
    """Keep launches in a child process that is killed without a chance to clean up."""
    child = os.fork()
    if child == 0:
        scratch = Scratch(root)
        for one in launches:
            scratch.keep(session, "print", one)
        os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


class TestRecovery:
    def test_launches_of_a_session_that_was_killed_come_back(self, root: Path) -> None:
        kept = [launch(0), launch(1)]
        die_after_keeping(root, "dead", *kept)
        scratch = Scratch(root)
        assert scratch.recover("print") == kept
        assert scratch.problems == []

    def test_only_those_of_the_same_fingerprint(self, root: Path) -> None:
        die_after_keeping(root, "dead", launch(0))
        assert Scratch(root).recover("another") == []

    def test_several_sessions_come_back_in_the_order_of_their_start(self, root: Path) -> None:
        first, second = launch(0, "2026-11-20T07:00:00+00:00"), launch(0)
        die_after_keeping(root, "a", second)
        die_after_keeping(root, "b", first)
        assert Scratch(root).recover("print") == [first, second]

    def test_a_session_that_lives_keeps_its_launches_to_itself(self, root: Path) -> None:
        living = Scratch(root)
        living.keep("living", "print", launch(0))
        assert Scratch(root).recover("print") == []
        living.close()
        assert Scratch(root).recover("print") == [launch(0)]

    def test_a_session_does_not_recover_its_own_launches(self, root: Path) -> None:
        scratch = Scratch(root)
        scratch.keep("mine", "print", launch(0))
        assert scratch.recover("print") == []

    def test_two_processes_never_recover_the_same_launch(self, root: Path) -> None:
        die_after_keeping(root, "dead", launch(0))
        one, two = Scratch(root), Scratch(root)
        assert one.recover("print") == [launch(0)]
        assert two.recover("print") == []
        assert one.recover("print") == []

    def test_both_runs_of_a_dead_session_come_back_to_one_process(self, root: Path) -> None:
        with Scratch(root) as dead:
            dead.keep("dead", "one", launch(0))
            dead.keep("dead", "two", launch(1))
        scratch = Scratch(root)
        assert scratch.recover("one") == [launch(0)]
        assert scratch.recover("two") == [launch(1)]

    def test_recovered_launches_stay_until_the_record_is_written(self, root: Path) -> None:
        die_after_keeping(root, "dead", launch(0))
        with Scratch(root) as first:
            first.recover("print")
        with Scratch(root) as second:
            assert second.recover("print") == [launch(0)]
            second.keep("new", "print", launch(1))
            second.discard("new", "print")
        assert Scratch(root).recover("print") == []

    def test_a_torn_last_line_is_dropped_and_reported(self, root: Path) -> None:
        die_after_keeping(root, "dead", launch(0), launch(1))
        path = root / "scratch/dead/print.jsonl"
        path.write_bytes(path.read_bytes()[:-20])
        scratch = Scratch(root)
        assert scratch.recover("print") == [launch(0)]
        (problem,) = scratch.problems
        assert problem.path == path
        assert problem.reason == "line 2 was cut short and is dropped"

    def test_nothing_is_recovered_from_a_folder_that_is_not_there(self, root: Path) -> None:
        assert Scratch(root).recover("print") == []
        assert not root.exists()


class TestKeeping:
    def test_a_discarded_run_leaves_no_file(self, root: Path) -> None:
        scratch = Scratch(root)
        scratch.keep("mine", "print", launch(0))
        scratch.discard("mine", "print")
        assert [p.name for p in (root / "scratch/mine").iterdir()] == ["owner.lock"]

    def test_discarding_what_was_never_kept_is_no_error(self, root: Path) -> None:
        Scratch(root).discard("mine", "print")

    def test_a_full_disk_is_said_and_costs_only_the_launch_that_did_not_fit(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scratch = Scratch(root)
        scratch.keep("mine", "print", launch(0))
        really_write = os.write

        def fill_up(handle: int, data: bytes) -> int:
            if len(data) > 10:
                return really_write(handle, data[: len(data) - 10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as full:
            full.setattr(scratch_module.os, "write", fill_up)
            with pytest.raises(StoreError, match="the disk is full"):
                scratch.keep("mine", "print", launch(1))
        scratch.keep("mine", "print", launch(2))
        scratch.close()
        reader = Scratch(root)
        assert reader.recover("print") == [launch(0), launch(2)]
        assert reader.problems == []


class TestSweep:
    def test_folders_with_nothing_left_in_them_go(self, root: Path) -> None:
        scratch = Scratch(root)
        scratch.keep("mine", "print", launch(0))
        scratch.discard("mine", "print")
        scratch.sweep()
        assert not (root / "scratch").exists()

    def test_leftovers_and_living_sessions_stay(self, root: Path) -> None:
        die_after_keeping(root, "dead", launch(0))
        living = Scratch(root)
        living.keep("living", "print", launch(1))
        living.discard("living", "print")
        Scratch(root).sweep()
        assert (root / "scratch/dead/print.jsonl").exists()
        assert (root / "scratch/living").exists()

    def test_a_sweep_does_not_keep_leftovers_from_others(self, root: Path) -> None:
        die_after_keeping(root, "dead", launch(0))
        sweeper = Scratch(root)
        sweeper.sweep()
        assert Scratch(root).recover("print") == [launch(0)]

    def test_a_session_goes_on_after_its_folder_was_swept(self, root: Path) -> None:
        scratch = Scratch(root)
        scratch.keep("mine", "print", launch(0))
        scratch.discard("mine", "print")
        scratch.sweep()
        scratch.keep("mine", "print", launch(1))
        scratch.close()
        assert Scratch(root).recover("print") == [launch(1)]


@pytest.mark.slow
def test_500_random_kills_of_a_writer_leave_no_unreadable_record(root: Path) -> None:
    record, one = a_record(), a_launch()
    chance = random.Random(20261120)
    store, written = Store(root), 0
    store.check_writable()
    for kill in range(KILLS):
        started, start = os.pipe()
        child = os.fork()
        if child == 0:
            scratch = Scratch(root)
            os.write(start, b"!")
            for number in range(1_000_000):
                scratch.keep(f"session-{kill}", "print", one)
                store.append(record.model_copy(update={"id": f"{kill:04d}x{number:06d}"}))
            os._exit(1)
        os.read(started, 1)
        time.sleep(chance.uniform(0, 0.015))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
        os.close(started)
        os.close(start)
    for stored in store.records():
        written += 1
        assert stored.record.statistics == record.statistics
    assert store.problems == []
    assert written > 0
    # The kills did hit in the middle of writing: some records never got their name.
    assert list(root.rglob(".*.tmp"))

    reader = Scratch(root)
    recovered = reader.recover("print")
    # A launch is kept before its record is written, so none of those is missing.
    assert len(recovered) >= written
    assert all(launch == one for launch in recovered)
    assert all("cut short" in problem.reason for problem in reader.problems)
