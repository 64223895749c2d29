"""Under torchrun: what is honoured of a request, what is refused, and which compile cache is used.

A rank that stands alone shows the plan: on a backend that is not here, rank 0 records the case as
it would have run, and nothing is launched.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from bench.backends import host
from bench.backends.base import World
from bench.backends.placed import placed
from bench.backends.temporary import TemporaryError
from bench.cli import joining
from bench.cli.joining import Together
from bench.results.record import CheckResult, Outcome, Record, Verdict
from bench.run import inplace
from bench.run import meeting as meetings
from bench.scenarios.errors import ScenarioError
from tests.run.driver import HEAD, Bench
from tests.run.test_command import TORCHRUN

RANK_0_OF_2 = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
}
TASK_0_OF_2 = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "one",
}
FOUR = "processes: 4\n"


def planned(bench: Bench, *arguments: str, cases: str = "", head: str = HEAD) -> Record:
    """Return the record of a case that rank 0 of 2 plans and cannot launch."""
    scenario = bench.scenario("placed", cases, head)
    finished = bench("run", scenario, "--backend", "neuron", *arguments, environment=RANK_0_OF_2)
    assert finished.code == 4, finished.stderr
    (record,) = bench.records()
    return record


def refused(bench: Bench, *arguments: str, cases: str = "", head: str = HEAD) -> str:
    scenario = bench.scenario("placed", cases, head)
    finished = bench("run", scenario, "--backend", "neuron", *arguments, environment=RANK_0_OF_2)
    assert finished.code == 2, finished.stderr
    assert not bench.results.exists()
    (message,) = finished.complaints
    return message.removeprefix("bench: ")


def test_the_words_name_the_launcher_as_it_is(bench: Bench) -> None:
    options: dict[str, Any] = {"environment": TASK_0_OF_2}
    two, toy = "matrix: { batch_size: [2, 4] }\n", ("--backend", "toy")
    resumed = bench("run", "quick", "--resume", **options)
    several = bench("run", bench.scenario("s", two), *toy, **options)
    other = bench("run", bench.scenario("t"), "--processes", "4", *toy, **options)
    compared = bench("ab", "quick", "--set-b", "batch_size=2", *toy, **options)
    assert [done.code for done in (resumed, several, other, compared)] == [2, 2, 2, 2]
    said = [done.complaints[0] for done in (resumed, several, other, compared)]
    assert "--resume: has no meaning under srun" in said[0]
    assert "leave srun out and use --processes P" in said[0]
    assert said[1].startswith("bench: srun: every rank runs exactly one case, and these are 2")
    assert "it sets processes=4, and srun has started 2" in said[2]
    assert "has no meaning under srun" in said[3]
    assert not bench.results.exists()


def test_different_numbers_of_ranks_on_the_nodes_are_refused(bench: Bench) -> None:
    uneven = {**TASK_0_OF_2, "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"}
    finished = bench("run", bench.scenario("s"), environment=uneven)
    assert finished.code == 2
    assert "started 2 of 3 ranks on this node, and another number on others" in finished.stderr


def test_the_nodes_that_were_given_are_in_the_plan(bench: Bench) -> None:
    two = {**TASK_0_OF_2, "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_STEP_NODELIST": "n[1-2]"}
    command = ("run", bench.scenario("s"), "--backend", "neuron")
    assert bench(*command, environment=two).code == 4
    (record,) = bench.records()
    assert (record.processes, record.requested.knobs.nodes) == (2, 2)
    refused = bench(*command, "--set", "nodes=1", environment=two)
    assert refused.code == 2
    assert "it sets nodes=1, and srun has started 2" in refused.stderr


def test_under_torchrun_the_command_starts_no_nodes(bench: Bench) -> None:
    finished = bench("run", "quick", "--nodes", "2", environment=RANK_0_OF_2)
    assert finished.code == 2
    assert "--nodes 2: has no meaning under torchrun" in finished.stderr


def test_a_mistake_that_only_one_rank_meets_is_said_by_that_rank(bench: Bench) -> None:
    finished = bench("run", "nowhere", environment={**RANK_0_OF_2, "RANK": "1"})
    assert finished.code == 2
    (message,) = finished.complaints
    assert message.startswith("bench: rank 1: scenario: 'nowhere' ")


def test_a_rank_without_torchrun_is_nobodys(bench: Bench) -> None:
    finished = bench("run", "nowhere", environment={"RANK": "1"})
    (message,) = finished.complaints
    assert message.startswith("bench: scenario: 'nowhere' ")


def test_a_command_on_each_node_is_one_on_each_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def meeting(tasks_per_node: str) -> meetings.Meeting:
        told = placed({**TASK_0_OF_2, "SLURM_STEP_TASKS_PER_NODE": tasks_per_node})
        return joining.meeting(Together(2, None, "10.0.0.1:29500", None), told)

    assert meeting("1(x2)").node == 0
    with pytest.raises(ScenarioError, match="srun has started its 2 tasks on one machine"):
        meeting("2")
    monkeypatch.setenv(host.STAND_IN_VARIABLE, "1")
    assert meeting("2").node == 0


def test_the_way_to_the_others_is_not_that_to_ourselves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert inplace._interface("127.0.0.1") == meetings.interface("127.0.0.1")
    resolve = socket.getaddrinfo
    own_name = {"trn-a": "127.0.1.1", "192.0.2.1": "127.0.0.1"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **how: resolve(own_name[host], *rest, **how)
    )
    assert inplace._interface("trn-a") is None
    own_name["192.0.2.1"] = "192.0.2.1"
    assert inplace._interface("trn-a") not in ("lo", "lo0")


class TestSettings:
    @pytest.mark.parametrize(
        ("arguments", "place"),
        [
            (["--resume"], "--resume"),
            (["--precompile"], "--precompile"),
            (["--launches", "2"], "measure.launches (--launches)"),
            (["--set", "measure.launches=5"], "measure.launches (--launches)"),
            (["--set", "measure={launches: 5}"], "measure.launches (--launches)"),
            (["--precision-target", "2"], "measure.precision_target (--precision-target)"),
            (["--set", "measure.precision_target=2"], "measure.precision_target"),
            (["--set", "measure.max_launches=40"], "measure.max_launches"),
            (["--timeout", "60"], "measure.timeout_s (--timeout)"),
            (["--set", "measure.timeout_s=60"], "measure.timeout_s (--timeout)"),
            (["--set", "measure.hang_s=60"], "measure.hang_s"),
            (["--set", "measure.health_steps=5"], "measure.health_steps"),
        ],
    )
    def test_what_only_our_own_launcher_can_do_is_refused_however_it_is_asked_for(
        self, bench: Bench, arguments: list[str], place: str
    ) -> None:
        said = refused(bench, *arguments)
        assert said.startswith(place)
        assert "has no meaning under torchrun" in said
        assert "use --processes P" in said

    @pytest.mark.parametrize(
        "arguments",
        [["--budget", "60"], ["--set", "measure.budget_s=60"], ["--set", "measure={budget_s: 60}"]],
    )
    def test_a_budget_that_is_given_is_the_launchs_own(
        self, bench: Bench, arguments: list[str]
    ) -> None:
        head = HEAD.replace("launches: 1", "launches: 3\n  precision_target: 5")
        measure = planned(bench, *arguments, head=head).requested.measure
        assert (measure.budget_s, measure.launches, measure.precision_target) == (60.0, 1, None)

    def test_a_scenarios_budget_is_shared_by_its_launches(self, bench: Bench) -> None:
        head = HEAD.replace("launches: 1", "launches: 2")
        assert planned(bench, head=head).requested.measure.budget_s == pytest.approx(0.1)


class TestProcesses:
    def test_those_that_torchrun_has_started_are_the_ranks(self, bench: Bench) -> None:
        record = planned(bench)
        assert (record.processes, record.requested.knobs.engine) == (2, "ddp")

    @pytest.mark.parametrize("arguments", [["--processes", "2"], ["--set", "processes=2"]])
    def test_an_equal_number_may_be_set(self, bench: Bench, arguments: list[str]) -> None:
        assert planned(bench, *arguments).processes == 2

    @pytest.mark.parametrize(
        ("arguments", "cases", "head"),
        [
            ([], "", HEAD + FOUR),
            ([], "matrix: { processes: [4] }\n", HEAD),
            (["--processes", "4"], "", HEAD),
            (["--set", "processes=4"], "", HEAD),
            (["--sweep", "processes=4"], "", HEAD),
        ],
    )
    def test_another_number_is_refused_with_both(
        self, bench: Bench, arguments: list[str], cases: str, head: str
    ) -> None:
        said = refused(bench, *arguments, cases=cases, head=head)
        assert "it sets processes=4, and torchrun has started 2" in said
        assert "start 4 with torchrun, or set processes to 2" in said


class TestCompileCache:
    @pytest.fixture(autouse=True)
    def _torchrun(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        for name, value in RANK_0_OF_2.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_PORT", "29500")

    def test_the_ranks_of_a_machine_share_one_which_the_first_removes(self, tmp_path: Path) -> None:
        with inplace.compile_cache(World(rank=2, size=4, local_rank=0)) as first:
            (first / "kernel.so").touch()
            with inplace.compile_cache(World(rank=3, size=4, local_rank=1)) as second:
                assert second == first
            assert (first / "kernel.so").exists()
            assert first.stat().st_mode & 0o077 == 0
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "name",
        [
            "TORCHELASTIC_RUN_ID",
            "TORCHELASTIC_RESTART_COUNT",
            "MASTER_PORT",
            "GROUP_RANK",
            "SLURM_RESTART_COUNT",
            "SLURM_NODEID",
        ],
    )
    def test_another_run_or_attempt_or_machine_has_another(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        place = World(rank=0, size=2, local_rank=0)
        with inplace.compile_cache(place) as first:
            monkeypatch.setenv(name, "7")
            with inplace.compile_cache(place) as second:
                assert second != first

    def test_one_that_somebody_else_made_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        owner = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
        place = World(rank=0, size=2, local_rank=0)
        with (
            pytest.raises(TemporaryError, match="belongs to another user"),
            inplace.compile_cache(place),
        ):
            pass


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(400)
class TestLaunched:
    def test_compiling_is_cold_whatever_the_user_has_compiled_before(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        users = tmp_path / "users"
        options: dict[str, Any] = {
            "command": TORCHRUN,
            "environment": {"TORCHINDUCTOR_CACHE_DIR": str(users)},
        }
        scenario = bench.scenario("compiled")
        finished = bench.run(scenario, "--set", "compile=inductor", backend="cpu", **options)
        assert finished.code == 0, finished.stderr
        (record,) = bench.records()
        assert record.launches[0].compilation.cache == "cold"
        assert finished.rows[0]["compile_cold_s"] == record.launches[0].compilation.seconds
        assert not users.exists()
        assert list(bench.temporary.glob("bench-*")) == []

    def test_a_failure_carries_its_traceback(self, bench: Bench) -> None:
        scenario = bench.scenario("broken", "model_kwargs: { fault: raises in build }\n")
        bench("run", scenario, "--backend", "toy", command=TORCHRUN)
        (record,) = bench.records()
        assert "in _raise" in (record.log_tail or "")
        assert str(bench.cwd) not in (record.log_tail or "")

    def test_the_tasks_of_srun_find_each_other_and_the_first_records(self, bench: Bench) -> None:
        """Each is bound to a CPU of its own, where there are two."""
        cpus = (min(host.cpus_allowed()), max(host.cpus_allowed()))
        scenario = bench.scenario("inplace")
        command = ("run", scenario, "--backend", "toy", "--set", "task=train", "--format", "json")
        tasks = [
            bench.start(
                *command,
                before=("taskset", "-c", str(cpu)),
                environment={**TASK_0_OF_2, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
            )
            for task, cpu in enumerate(cpus)
        ]
        first, second = (task.wait() for task in tasks)
        assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
        (row,) = first.rows
        assert (row["outcome"], row["processes"]) == ("ok", 2)
        assert second.stdout == ""
        (record,) = bench.records()
        (launch,) = record.launches
        places = [(rank.node, rank.local_rank, rank.cpus) for rank in launch.ranks]
        assert places == [(0, 0, [cpus[0]]), (0, 1, [cpus[1]])]
        assert record.environment.cpus_visible == len(set(cpus))
        assert (launch.actual["processes"], launch.actual["nodes"]) == (2, 1)
        assert list(bench.temporary.glob("bench-*")) == []
        assert bench.processes() == []

    def test_tasks_of_srun_on_two_nodes_know_theirs(self, bench: Bench) -> None:
        """By what srun would tell on two machines, for which this one stands."""
        port = str(meetings.free_port("127.0.0.1"))
        two = {
            **TASK_0_OF_2,
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            "SLURM_STEP_NODELIST": "n[1-2]",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            host.STAND_IN_VARIABLE: "1",
        }
        command = ("run", bench.scenario("nodes"), "--backend", "toy", "--set", "task=train")
        tasks = [
            bench.start(
                *command,
                environment={**two, "SLURM_PROCID": str(task), "SLURM_NODEID": str(task)},
            )
            for task in range(2)
        ]
        finished = [task.wait() for task in tasks]
        assert [one.code for one in finished] == [0, 0], finished[0].stderr + finished[1].stderr
        (record,) = bench.records()
        (launch,) = record.launches
        assert (record.processes, record.requested.knobs.nodes) == (2, 2)
        assert [(rank.node, rank.local_rank) for rank in launch.ranks] == [(0, 0), (1, 0)]
        checks = {check.name: check for check in launch.audit}
        assert launch.actual["nodes"] == 2
        assert checks["as_asked"].result is CheckResult.PASS
        assert checks["nodes_apart"].result is CheckResult.FAIL
        assert checks["nodes_apart"].evidence.startswith("rank 0: 2 nodes on 1 machine: ")
        assert list(bench.temporary.glob("bench-*")) == []

    def test_two_agents_of_torchrun_on_one_machine_are_not_two_machines(self, bench: Bench) -> None:
        scenario = bench.scenario("agents")
        place = f"127.0.0.1:{meetings.free_port('127.0.0.1')}"
        agent = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1")
        meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--local-addr", "127.0.0.1")
        command = ("run", scenario, "--backend", "toy", "--set", "task=train")
        agents = [
            bench.start(*command, command=(*agent, *meeting, "-m", "bench")) for _ in range(2)
        ]
        finished = [one.wait() for one in agents]
        assert [one.code for one in finished] == [0, 0], finished[0].stderr + finished[1].stderr
        (record,) = bench.records()
        assert (record.processes, record.requested.knobs.nodes) == (2, 2)
        assert [rank.node for rank in record.launches[0].ranks] == [0, 1]
        assert record.verdict is Verdict.SUSPECT
        assert "nodes: asked 2, ran 1" in (record.verdict_reason or "")
        assert bench.processes() == []

    def test_a_port_that_is_taken_is_a_row_that_says_so(self, bench: Bench) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            meeting = {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(other.getsockname()[1]),
            }
            command = ("run", bench.scenario("inplace"), "--backend", "toy")
            # The other task would wait for an answer from whoever has the port.
            finished = bench(*command, environment={**TASK_0_OF_2, **meeting})
        assert finished.code == 4
        (record,) = bench.records()
        assert record.outcome is Outcome.CRASH
        assert "EADDRINUSE" in (record.reason or "")
        assert (record.remedy or "").startswith("another program has the port")
