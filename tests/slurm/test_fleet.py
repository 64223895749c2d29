"""The page on clusters, done: on a real Slurm, started for the tests on this machine alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson
import pytest

from bench.backends.host import STAND_IN_VARIABLE
from bench.results.record import Outcome
from tests.run.driver import Bench, Finished
from tests.small_vit import SMALL_VIT

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.torch,
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]

CASES = 20
MATRIX = f"""\
schema: 1
name: fleet
description: Twenty cases of the 3 ms ViT
model: {SMALL_VIT["model"]}
model_kwargs: {{ patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2 }}
image_size: 32
classes: 10
threads: 1
data: {{ source: cached }}
matrix:
  batch_size: [1, 2, 4, 6, 8]
  gradient_accumulation: [1, 2]
  optimizer_impl: [for-loop, foreach]
measure:
  launches: 1
  budget_s: 0.3
  windows: 3
  warmup_s: 0
  diagnostics: false
  health: false
"""
ARRAY = """\
#!/bin/sh
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task=1
#SBATCH --output={logs}/%a.log
exec {python} -m bench run fleet.yaml --backend cpu --case $SLURM_ARRAY_TASK_ID --resume
"""


class Fleet:
    """The command, and Slurm's programs, in one folder."""

    def __init__(self, root: Path, slurm: Mapping[str, str]) -> None:
        self.bench = Bench(root)
        without = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        # What srun starts inherits all of it: a task finds the toy backend and its model.
        self.environment = {**without, **self.bench.environment, **slurm}

    def ask(self, *command: str) -> str:
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.bench.cwd,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def srun(self, tasks: int, *arguments: str, **variables: str) -> Finished:
        command = (sys.executable, "-m", "bench")
        done = subprocess.run(
            ["srun", "-n", str(tasks), "--kill-on-bad-exit=1", *command, *arguments],
            env={**self.environment, **variables},
            cwd=self.bench.cwd,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def wait(self, happened: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not happened():
            assert time.monotonic() < deadline, self.ask("squeue")
            time.sleep(0.3)

    def states(self, job: str) -> dict[str, str]:
        """Return the state of every task of an array that is not over, by its number."""
        told = self.ask("squeue", "--noheader", "--array", f"--jobs={job}", "--format=%K %t")
        return dict(line.split() for line in told.splitlines())


@pytest.fixture
def fleet(tmp_path: Path, slurm: Mapping[str, str]) -> Fleet:
    return Fleet(tmp_path, slurm)


def test_an_array_of_cases_fills_one_table_however_many_jobs_are_killed(fleet: Fleet) -> None:
    bench = fleet.bench
    (bench.cwd / "fleet.yaml").write_text(MATRIX, encoding="utf-8")
    logs = bench.cwd / "logs"
    logs.mkdir()
    plan = bench("run", "fleet.yaml", "--backend", "cpu", "--dry-run", "--format", "json").rows
    assert [row["position"] for row in plan] == list(range(CASES))
    script = bench.cwd / "array.sh"
    script.write_text(
        ARRAY.format(last=len(plan) - 1, logs=logs, python=sys.executable), encoding="utf-8"
    )

    job = fleet.ask("sbatch", "--parsable", str(script))
    doomed = {str(number) for number in random.sample(range(CASES), 2)}
    killed: set[str] = set()

    def over() -> bool:
        states = fleet.states(job)
        for number in doomed - killed:
            if states.get(number) == "R":
                fleet.ask("scancel", "--signal=KILL", "--full", f"{job}_{number}")
                killed.add(number)
        return not states

    fleet.wait(over, 1500)
    assert killed == doomed
    by_case = {row["case"]: str(row["position"]) for row in plan}
    measured = {by_case[record.requested.case] for record in bench.records()}
    printed = "\n".join(path.read_text() for path in sorted(logs.glob("*.log")))
    assert measured == {str(number) for number in range(CASES)} - doomed, printed
    assert bench.processes() == []

    resumed = bench.start(
        *("run", "fleet.yaml", "--backend", "cpu", "--format", "json", "--resume")
    ).wait(600)
    assert resumed.code == 0, resumed.stderr
    assert resumed.stderr.count(": launch ") == 2
    assert [row["outcome"] for row in resumed.rows] == ["ok"] * CASES
    records = Counter(record.requested.case for record in bench.records())
    assert records == dict.fromkeys(by_case, 1)
    table = orjson.loads(bench("table", "--format", "json").stdout)["rows"]
    assert sorted(row["case"] for row in table) == sorted(by_case)


def test_the_tasks_of_an_srun_are_the_ranks_of_one_launch(fleet: Fleet) -> None:
    scenario = fleet.bench.scenario("inplace")
    command = ("run", scenario, "--backend", "toy", "--set", "task=train", "--format", "json")
    finished = fleet.srun(2, *command)
    assert finished.code == 0, finished.stderr
    (row,) = finished.rows
    assert (row["outcome"], row["processes"]) == ("ok", 2)
    (record,) = fleet.bench.records()
    assert [rank.local_rank for rank in record.launches[0].ranks] == [0, 1]
    (check,) = [c for c in record.launches[0].audit if c.name == "collectives_real"]
    assert check.evidence == "world 2 of 2, all-reduce of rank + 1 gives 3"
    several = fleet.srun(2, *command, "--sweep", "batch_size=2,4")
    assert several.code != 0
    assert "srun: every rank runs exactly one case, and these are 2" in several.stderr


def test_one_command_on_each_node_needs_no_place_to_meet(fleet: Fleet) -> None:
    """Two tasks on this machine stand for two nodes."""
    scenario = fleet.bench.scenario("together", "matrix: { batch_size: [2, 4] }\n")
    command = ("run", scenario, "--backend", "toy", "--format", "json", "--nodes", "2")
    packed = fleet.srun(2, *command)
    assert packed.code != 0
    assert "srun has started its 2 tasks on one machine" in packed.stderr
    finished = fleet.srun(2, *command, "--launches", "2", **{STAND_IN_VARIABLE: "1"})
    assert finished.code == 0, finished.stderr
    assert [row["outcome"] for row in finished.rows] == ["ok", "ok"]
    for record in fleet.bench.records():
        assert (record.processes, record.requested.knobs.nodes) == (2, 2)
        assert [len(launch.window_s) for launch in record.launches] == [2, 2]
        assert [rank.node for rank in record.launches[0].ranks] == [0, 1]


def test_a_batch_script_and_an_srun_of_one_task_start_the_ranks_themselves(fleet: Fleet) -> None:
    """A batch script that was given two tasks sees SLURM_PROCID and SLURM_NTASKS too."""
    scenario = fleet.bench.scenario("batch", "matrix: { batch_size: [2, 4] }\n")
    command = f"{sys.executable} -m bench run {scenario} --backend toy --processes 2"
    log = fleet.bench.cwd / "batch.log"
    options = ("--wait", "--ntasks=2", f"--output={log}")
    subprocess.run(
        ["sbatch", *options, "--wrap", command],
        env=fleet.environment,
        cwd=fleet.bench.cwd,
        check=False,
        timeout=300,
    )
    told = log.read_text(encoding="utf-8")
    assert [record.outcome for record in fleet.bench.records()] == [Outcome.OK] * 2, told
    finished = fleet.srun(1, "run", scenario, "--backend", "toy", "--resume", "--processes", "2")
    assert finished.code == 0, finished.stderr
    assert finished.stderr.count(": launch ") == 0
