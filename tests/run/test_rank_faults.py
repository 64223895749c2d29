"""A rank that fails among others: on one machine, and on another node than the first.

Several commands on this machine stand for as many nodes. Whatever happens to rank 1, the row names
it as the first that failed, with its own last words; within 30 s all processes of the launch are
gone, on all nodes, and the next cases are measured.
"""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path

import pytest

from bench.backends.host import STAND_IN_VARIABLE
from bench.results.record import Outcome, Record
from bench.run import meeting as meetings
from tests.run.driver import HEAD, Bench, Finished, Running, Watch

pytestmark = [pytest.mark.torch, pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(900)]

FAULTS = """\
processes: 2
cases:
  - case: killed
    set: { model_kwargs: { fault: kills rank 1 } }
  - case: raises
    set: { model_kwargs: { fault: raises on rank 1 } }
  - case: no memory
    set: { model_kwargs: { fault: no memory on rank 1 } }
  - case: hangs
    set: { model_kwargs: { fault: hangs on rank 1 } }
  - case: healthy
    set: {}
"""
GONE_S = 30.0
"""So long after a fault no process of its launch may be left."""
ENDLESS = """\
processes: 2
cases:
  - case: endless
    set: { model_kwargs: { fault: hangs in build } }
  - case: alone
    set: { processes: 1, nodes: 1 }
"""
OF_THREE = """\
processes: 3
cases:
  - case: endless
    set: { model_kwargs: { fault: hangs in build } }
  - case: alone
    set: { processes: 1, nodes: 1 }
  - case: pair
    set: { processes: 2, nodes: 2 }
  - case: all
    set: {}
"""


class SeveralNodes:
    """The command started several times, as on so many machines."""

    def __init__(self, bench: Bench, nodes: int = 2) -> None:
        self.bench = bench
        self.nodes = nodes
        self.endpoint = f"127.0.0.1:{meetings.free_port('127.0.0.1')}"

    def start(self, node: int, scenario: str, *arguments: str, backend: str = "toy") -> Running:
        place = ("--rdzv-endpoint", self.endpoint, "--node-rank", str(node))
        return self.bench.start(
            *("run", scenario, "--backend", backend, "--format", "json"),
            *("--nodes", str(self.nodes), *place, *arguments),
            environment={STAND_IN_VARIABLE: "1"},
        )

    def run(self, scenario: str, *arguments: str) -> tuple[Finished, Finished]:
        second = self.start(1, scenario, *arguments)
        first = self.start(0, scenario, *arguments)
        return first.wait(400), second.wait(60)


class Swept:
    """One run over every fault, and what it left."""

    def __init__(self, bench: Bench, nodes: int) -> None:
        self.bench = bench
        scenario = bench.scenario("ranks", FAULTS, HEAD.replace("task: infer", "task: train"))
        settings = ("--set", "measure.hang_s=3", "--set", "measure.health=true")
        self.finished: Finished
        self.other: Finished | None = None
        with Watch(bench) as self.watch:
            if nodes == 1:
                command = ("run", scenario, "--backend", "toy", "--format", "json", *settings)
                self.finished = bench.start(*command).wait(400)
            else:
                self.finished, self.other = SeveralNodes(bench).run(scenario, *settings)
        self.processes = bench.processes()
        self.records = {record.requested.case: record for record in bench.records()}


@pytest.fixture(scope="module", params=[1, 2], ids=["one machine", "two nodes"])
def swept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    return Swept(Bench(tmp_path_factory.mktemp("ranks")), request.param)


def tail_of(record: Record) -> str:
    assert record.log_tail is not None
    return record.log_tail


@pytest.mark.parametrize(
    ("case", "outcome", "reason"),
    [
        ("killed", Outcome.CRASH, r"^rank 1: killed from outside .*\(SIGKILL\)"),
        ("raises", Outcome.CRASH, r"^rank 1: ValueError: no weights in <cwd>/weights"),
        ("no memory", Outcome.OOM, r"^rank 1: .*can't allocate memory"),
        ("hangs", Outcome.HANG, r"^rank 1 had been stepping .*, and the others wait for it$"),
    ],
)
def test_each_fault_is_a_row_that_names_the_rank_that_failed_first(
    swept: Swept, case: str, outcome: Outcome, reason: str
) -> None:
    record = swept.records[case]
    assert record.outcome is outcome, record.reason
    assert re.search(reason, record.reason or ""), record.reason
    assert swept.finished.row(case)["outcome"] == outcome


def test_the_log_is_that_of_the_rank_that_failed(swept: Swept) -> None:
    assert "in _want_more_than_allowed" in tail_of(swept.records["no memory"])
    raised = tail_of(swept.records["raises"])
    assert "in _raise" in raised
    assert raised.splitlines()[-1].startswith("ValueError: no weights in <cwd>/weights")
    tiny = (Path(__file__).parent / "plugins/tiny.py").read_text(encoding="utf-8").splitlines()
    (line,) = [n for n, text in enumerate(tiny, start=1) if "the line where it hangs" in text]
    assert re.search(rf'tiny\.py", line {line} in _sleep', tail_of(swept.records["hangs"]))


def test_the_next_case_is_measured_and_the_exit_code_is_4(swept: Swept) -> None:
    assert swept.finished.code == 4
    healthy = swept.records["healthy"]
    assert healthy.outcome is Outcome.OK, healthy.reason
    (launch,) = healthy.launches
    assert len(launch.window_s) == len(launch.ranks) == 2
    assert launch.actual["processes"] == 2
    assert healthy.health is not None
    assert healthy.health.learns is not None
    assert len(swept.records) == len(swept.finished.rows) == 5


@pytest.mark.parametrize("fault", ["_kill", "_raise", "_want_more_than_allowed", "_sleep"])
def test_the_whole_group_is_gone_soon_after_the_fault(swept: Swept, fault: str) -> None:
    came = (swept.bench.cwd / f"now{fault}").stat().st_mtime
    alive_s = swept.watch.alive_after(came)
    assert len(alive_s) >= 2  # both ranks have been seen
    assert max(alive_s) < GONE_S


def test_no_process_and_no_folder_is_left(swept: Swept) -> None:
    assert swept.processes == []
    assert list(swept.bench.temporary.glob("bench-*")) == []


def test_the_first_node_records_for_both_and_the_other_returns_its_code(swept: Swept) -> None:
    nodes = {rank.node for rank in swept.records["healthy"].launches[0].ranks}
    if swept.other is None:
        assert nodes == {0}
        return
    assert nodes == {0, 1}
    assert (swept.other.code, swept.other.stdout) == (4, "")
    assert "this is node 1 of 2" in swept.other.stderr
    assert "node 1 has joined (2 of 2)" in swept.finished.stderr
    assert swept.records["healthy"].requested.knobs.nodes == 2


def gone_within(bench: Bench, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := bench.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.2)  # they are no children of this process, so nothing can be waited for


def building(stderr: str) -> bool:
    return "building" in stderr


def test_a_node_that_dies_is_named_its_ranks_go_and_cases_without_it_are_measured(
    bench: Bench,
) -> None:
    nodes = SeveralNodes(bench, 3)
    scenario = bench.scenario("three", OF_THREE)
    third, second, first = (nodes.start(node, scenario) for node in (2, 1, 0))
    with Watch(bench) as watch:
        first.wait_for(building, 90)
        died = time.time()
        second.process.kill()
        finished, left = first.wait(120), third.wait(30)
    assert max(watch.alive_after(died)) < GONE_S
    assert (finished.code, left.code) == (4, 4)
    row = finished.row("endless")
    assert (row["outcome"], row["reason"]) == (
        "crash",
        "node 1 (rank 1) has gone: its connection was closed",
    )
    assert finished.row("alone")["outcome"] == "ok"
    assert finished.row("pair")["outcome"] == "ok"
    assert [rank.node for rank in bench.record("pair").launches[0].ranks] == [0, 1]
    assert "/ pair on toy: ranks 1 to 1" in left.stderr
    row = finished.row("all")
    assert (row["outcome"], row["reason"]) == (
        "unavailable",
        "node 1 has gone: its connection was closed",
    )
    gone_within(bench, 10)


def test_a_first_node_that_dies_takes_the_ranks_of_the_others_along(bench: Bench) -> None:
    nodes = SeveralNodes(bench)
    scenario = bench.scenario("endless", ENDLESS)
    second, first = nodes.start(1, scenario), nodes.start(0, scenario)
    first.wait_for(building, 90)
    first.process.kill()
    first.process.wait()
    finished = second.wait(30)
    assert finished.code == 4
    assert "the first node has gone: its connection was closed" in finished.stderr
    gone_within(bench, 10)


def test_a_node_that_stands_still_is_lost_within_the_time(bench: Bench) -> None:
    nodes = SeveralNodes(bench)
    scenario = bench.scenario("endless", ENDLESS)
    second, first = nodes.start(1, scenario), nodes.start(0, scenario)
    first.wait_for(building, 90)
    second.process.send_signal(signal.SIGSTOP)
    # The line comes when the ranks have gone that can be reached.
    first.wait_for(lambda said: "crash in build: node 1 (rank 1) has gone" in said, GONE_S)
    finished = first.wait(60)
    assert finished.row("endless")["reason"] == (
        "node 1 (rank 1) has gone: nothing was heard of it for 10 s"
    )
    # It comes back: there is nobody left to do anything for.
    second.process.send_signal(signal.SIGCONT)
    assert second.wait(30).code == 4
    gone_within(bench, 10)


def test_stopping_the_first_node_stops_the_run_on_both(bench: Bench) -> None:
    nodes = SeveralNodes(bench)
    scenario = bench.scenario("endless", ENDLESS)
    second, first = nodes.start(1, scenario), nodes.start(0, scenario)
    first.wait_for(building, 90)
    first.process.send_signal(signal.SIGINT)
    assert (first.wait(30).code, second.wait(30).code) == (130, 130)
    (record,) = bench.records()
    assert record.outcome is Outcome.INTERRUPTED
    assert bench.processes() == []


def test_a_node_that_never_joins_makes_rows_and_the_others_are_measured(bench: Bench) -> None:
    nodes = SeveralNodes(bench)
    finished = nodes.start(0, bench.scenario("waits", ENDLESS), "--join-timeout", "3").wait(60)
    assert finished.code == 4
    row = finished.row("endless")
    assert (row["outcome"], row["reason"]) == (
        "unavailable",
        "node 1 (rank 1) has not joined within 3 s",
    )
    assert f"node 1 has not joined at {nodes.endpoint} within 3 s" in finished.stderr
    assert finished.row("alone")["outcome"] == "ok"
    assert bench.processes() == []


def test_a_port_that_is_taken_makes_rows_and_the_other_node_says_so(bench: Bench) -> None:
    nodes = SeveralNodes(bench)
    host, _, port = nodes.endpoint.partition(":")
    with socket.socket() as other:
        other.bind((host, int(port)))
        other.listen()
        scenario = bench.scenario("taken", ENDLESS)
        second, first = nodes.start(1, scenario), nodes.start(0, scenario)
        finished, left = first.wait(60), second.wait(60)
    said = f"port {port} of 127.0.0.1 is taken by another program"
    row = finished.row("endless")
    assert row["outcome"] == "unavailable"
    assert row["reason"].startswith(f"port {port} of <host> is taken by another program")
    assert said in finished.stderr
    assert finished.row("alone")["outcome"] == "ok"
    assert (finished.code, left.code) == (4, 4)
    assert left.complaints[0].startswith(f"bench: {said}")


def test_without_numbers_who_has_the_address_is_first(bench: Bench) -> None:
    nodes = SeveralNodes(bench)
    scenario = bench.scenario("unnumbered", "processes: 2\n")
    command = ("run", scenario, "--backend", "toy", "--nodes", "2", "--format", "json")
    place = ("--rdzv-endpoint", nodes.endpoint)
    told = {STAND_IN_VARIABLE: "1"}
    runs = [bench.start(*command, *place, environment=told) for _ in range(2)]
    finished = [run.wait(120) for run in runs]
    assert [done.code for done in finished] == [0, 0]
    assert sorted(bool(done.stdout) for done in finished) == [False, True]
    (record,) = bench.records()
    assert record.launches[0].actual["processes"] == 2


class TestAsked:
    """What is refused before anything is measured."""

    def complaint(self, bench: Bench, *arguments: str) -> str:
        finished = bench("run", bench.scenario("asked"), "--backend", "toy", *arguments)
        assert finished.code == 2
        assert not bench.results.exists()
        return finished.stderr

    def test_a_place_to_meet_is_needed(self, bench: Bench) -> None:
        assert "give all of them --rdzv-endpoint HOST:PORT" in self.complaint(bench, "--nodes", "2")

    @pytest.mark.parametrize(
        "given",
        [("--rdzv-endpoint", "10.0.0.1:29500"), ("--node-rank", "1"), ("--join-timeout", "5")],
    )
    def test_what_is_said_of_other_nodes_means_nothing_without_them(
        self, bench: Bench, given: tuple[str, str]
    ) -> None:
        assert "go with --nodes N" in self.complaint(bench, *given)

    def test_a_number_beyond_the_nodes(self, bench: Bench) -> None:
        place = ("--rdzv-endpoint", "10.0.0.1:29500", "--node-rank", "2")
        assert "is none of 2 nodes" in self.complaint(bench, "--nodes", "2", *place)

    def test_shares_must_be_equal(self, bench: Bench) -> None:
        place = ("--rdzv-endpoint", "10.0.0.1:29500", "--processes", "3")
        said = self.complaint(bench, "--nodes", "2", *place)
        assert "nodes=2 cannot have equal shares of processes=3" in said

    def test_a_case_of_more_nodes_than_run_the_command(self, bench: Bench) -> None:
        said = self.complaint(bench, "--set", "nodes=2")
        assert "it sets nodes=2, and this command runs on 1" in said
        assert "--rdzv-endpoint HOST:PORT" in said

    def test_compiling_beforehand_is_for_one_machine(self, bench: Bench) -> None:
        port = meetings.free_port("127.0.0.1")
        place = ("--rdzv-endpoint", f"127.0.0.1:{port}", "--join-timeout", "0.2")
        said = self.complaint(bench, "--nodes", "2", *place, "--precompile")
        assert "fills the compile caches of one machine" in said

    def test_a_dry_run_meets_nobody(self, bench: Bench) -> None:
        plan = ("--nodes", "2", "--processes", "4", "--dry-run")
        (row,) = bench.run(bench.scenario("asked"), *plan).rows
        assert (row["processes"], row["nodes"]) == (4, 2)
