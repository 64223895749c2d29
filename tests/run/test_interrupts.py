"""Stopping the command itself: politely, where everything is kept, and by SIGKILL."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from bench.results.record import Outcome
from tests.run.driver import Bench

pytestmark = [pytest.mark.torch, pytest.mark.slow]

TWO_CASES = """\
cases:
  - case: first
    set: {}
  - case: second
    set: { batch_size: 2 }
"""
ENDLESS = "model_kwargs: { fault: hangs in build }\n"


def launched(number: int) -> Callable[[str], bool]:
    """Return whether so many launches have started, the last of which has not ended."""
    return lambda stderr: stderr.count(": launch ") == number


def wait_until(happened: Callable[[], bool], timeout_s: float, bench: Bench) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, f"still there: {bench.processes()}"
        time.sleep(0.1)


def test_one_sigint_keeps_what_was_measured_and_resume_goes_on_from_there(bench: Bench) -> None:
    scenario = bench.scenario("stopped", TWO_CASES)
    two = ("--launches", "2")
    running = bench.start("run", scenario, "--backend", "toy", "--format", "json", *two)
    # Round 1 is over; the second case, which begins round 2, is under way.
    running.wait_for(launched(3))
    time.sleep(0.5)
    running.process.send_signal(signal.SIGINT)
    stopped = running.wait(30)
    assert stopped.code == 130
    assert "stopping: recording what was measured" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert {row["outcome"] for row in stopped.rows} == {"interrupted"}
    assert stopped.row("first")["reason"] == "interrupted after 1 of 2 launches"
    assert bench.processes() == []
    interrupted = {record.requested.case: record for record in bench.records()}
    assert [len(interrupted[name].launches) for name in ("first", "second")] == [1, 1]
    kept = [name for name in bench.files() if name.startswith("scratch/")]
    assert len([name for name in kept if name.endswith(".jsonl")]) == 2

    resumed = bench.run(scenario, *two, "--resume")
    assert resumed.code == 0
    assert resumed.stderr.count(": launch 2 of 2") == 2
    assert resumed.stderr.count(": launch ") == 2
    done = {r.requested.case: r for r in bench.records() if r.outcome is Outcome.OK}
    for name, record in done.items():
        assert record.launches[0] == interrupted[name].launches[0]
        assert record.launches[1].session == record.session != interrupted[name].session
    assert sorted(done) == ["first", "second"]
    assert [name for name in bench.files() if name.startswith("scratch/")] == []


def test_a_killed_parent_takes_its_ranks_and_their_loaders_along(bench: Bench) -> None:
    scenario = bench.scenario("orphans", "model_kwargs: { fault: hangs in step }\n")
    running = bench.start("run", scenario, "--backend", "toy", "--set", "data.workers=1")
    # The command, its rank, and the loader that the rank has forked.
    wait_until(lambda: len(bench.processes()) == 3, 60, bench)
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not bench.processes(), 10, bench)
    assert bench.files() == []


def test_a_second_sigint_does_not_wait_for_records(bench: Bench) -> None:
    scenario = bench.scenario("impatient", ENDLESS)
    running = bench.start("run", scenario, "--backend", "toy")
    running.wait_for(launched(1))
    time.sleep(2)
    # Stopped politely, a rank gets a few seconds; it ends at once when it is asked twice.
    running.process.send_signal(signal.SIGINT)
    running.wait_for(lambda stderr: "stopping" in stderr)
    running.process.send_signal(signal.SIGINT)
    assert running.wait(10).code == 130
    wait_until(lambda: not bench.processes(), 10, bench)
