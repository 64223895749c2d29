"""Whole runs on the XLA flavour of Neuron, simulated: the ladder, and a group of one.

The machine's files and packages are pretended, and torch_xla computes on the host's processors: it
proves the way of every setting to the compiler's and the runtime's environment, and nothing about
what a Neuron core makes of it. The real core is in `tests/run/test_neuron_core.py`.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from bench.results.record import CheckResult, Launch, Outcome, Record, Verdict
from tests.backends import neuron_bed
from tests.run.driver import Bench, Finished

NET = """\
import torch

def build():
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(768, 64), torch.nn.GELU(), torch.nn.Linear(64, 10)
    )
"""
SMALL = (
    "model=net:build",
    "image_size=16",
    "classes=10",
    "measure.windows=3",
    # Ten steps in a graph take PJRT CPU minutes to compile.
    "ladder[steps-per-graph].set.loader.batches_per_execution=3",
)
RUNGS = (
    "baseline",
    "loader-worker",
    "batch-size",
    "autocast",
    "bf16-everywhere",
    "bf16-cast",
    "steps-per-graph",
    "compiler-bf16",
    "fp8",
    "compiler-flags",
)
MUST_HOLD = (
    "as_asked",
    "batch_as_asked",
    "executions_counted",
    "fence_waits",
    "loss_finite",
    "no_compile_in_window",
    "no_fallbacks",
    "parameters_moved",
    "updates_counted",
)
CAST_BY_COMPILER = {"compiler-bf16": "bf16", "fp8": "fp8_e4m3"}


def result(launch: Launch, name: str) -> CheckResult:
    (check,) = [check for check in launch.audit if check.name == name]
    return check.result


def on_the_bed(bench: Bench, root: Path) -> dict[str, str]:
    """Return the variables that put the command onto a simulated machine."""
    machine, packages = neuron_bed.machine(root / "machine"), neuron_bed.site(root / "packages")
    bed = neuron_bed.environment(machine, packages)
    bed["PYTHONPATH"] = os.pathsep.join([bed["PYTHONPATH"], bench.environment["PYTHONPATH"]])
    return bed


class Ladder:
    def __init__(self, bench: Bench, root: Path) -> None:
        (bench.cwd / "net.py").write_text(NET, encoding="utf-8")
        bed = on_the_bed(bench, root)
        options = [word for setting in SMALL for word in ("--set", setting)]
        self.bench = bench
        self.environment = bed
        self.finished: Finished = bench.start(
            *("run", "vit-ladder", "--backend", "neuron", "--format", "json", "--no-health"),
            *("--launches", "1", "--budget", "1", *options),
            environment=bed,
        ).wait(1500.0)
        self.records = {
            record.requested.case: record
            for path in (bench.results / "simulated").rglob("2*.json")
            for record in [Record.model_validate_json(path.read_bytes())]
        }

    def launch(self, case: str) -> Launch:
        record = self.records[case]
        assert record.outcome is Outcome.OK, (case, record.reason)
        return record.launches[0]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    return Ladder(Bench(tmp_path_factory.mktemp("bench")), tmp_path_factory.mktemp("neuron"))


@pytest.mark.xla
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    importlib.util.find_spec("torch_xla") is None, reason="torch_xla is not installed"
)
class TestSimulated:
    def test_every_rung_runs_from_end_to_end(self, ladder: Ladder) -> None:
        assert ladder.finished.code == 0, ladder.finished.stderr
        assert [row["case"] for row in ladder.finished.rows] == list(RUNGS)
        assert {row["outcome"] for row in ladder.finished.rows} == {"ok"}

    def test_every_row_says_that_it_is_simulated(self, ladder: Ladder) -> None:
        for row in ladder.finished.rows:
            assert row["simulated"] is True
            assert row["flavour"] == "xla, simulated"
            assert row["device"].startswith("simulated NeuronCore (")
            assert row["mfu"] is None

    def test_the_table_says_so_beside_every_verdict(self, ladder: Ladder) -> None:
        table = ladder.bench(
            *("table", str(ladder.bench.results / "simulated"), "--format", "markdown"),
            environment=ladder.environment,
        )
        lines = [line for line in table.stdout.splitlines() if line.startswith("|")]
        rows = [line for line in lines if any(f" {rung} " in line for rung in RUNGS)]
        assert len(rows) == len(RUNGS)
        assert all("simulated" in line for line in rows)

    def test_no_record_lies_among_real_ones(self, ladder: Ladder) -> None:
        assert ladder.bench.records() == []
        assert set(ladder.records) == set(RUNGS)

    def test_the_record_holds_the_compilers_version_and_its_options(self, ladder: Ladder) -> None:
        flags = {
            case: record.environment.flags["NEURON_CC_FLAGS"]
            for case, record in ladder.records.items()
        }
        assert flags["baseline"] == "--auto-cast=none"
        assert flags["fp8"] == "--auto-cast=all --auto-cast-type=fp8_e4m3"
        for record in ladder.records.values():
            assert record.environment.versions["neuronx-cc"] == neuron_bed.NEURONX_CC
            assert record.environment.versions["torch-neuronx"] == neuron_bed.TORCH_NEURONX

    @pytest.mark.parametrize("case", RUNGS)
    def test_what_ran_is_what_was_asked_for(self, ladder: Ladder, case: str) -> None:
        launch = ladder.launch(case)
        assert launch.actual["simulated"] is True
        found = {check.name: check for check in launch.audit if check.name in MUST_HOLD}
        assert set(found) == set(MUST_HOLD)
        assert [check for check in found.values() if check.result is not CheckResult.PASS] == []
        assert launch.executions == launch.expected_executions

    @pytest.mark.parametrize("case", CAST_BY_COMPILER)
    def test_a_cast_that_the_compiler_did_not_make_is_found_out(
        self, ladder: Ladder, case: str
    ) -> None:
        """There is no neuronx-cc here: the audit must not believe the flag."""
        (check,) = [c for c in ladder.launch(case).audit if c.name == "precision_ran"]
        assert check.result is CheckResult.FAIL
        assert f"cast to {CAST_BY_COMPILER[case]} by the compiler" in check.evidence
        assert "a known product rounds to fp32" in check.evidence
        assert ladder.records[case].verdict is Verdict.SUSPECT

    @pytest.mark.parametrize("case", ["baseline", "autocast", "bf16-everywhere", "bf16-cast"])
    def test_the_other_precisions_are_proven(self, ladder: Ladder, case: str) -> None:
        assert result(ladder.launch(case), "precision_ran") is CheckResult.PASS

    def test_memory_is_the_drivers_and_energy_has_a_reason(self, ladder: Ladder) -> None:
        launch = ladder.launch("baseline")
        assert set(launch.memory_window_bytes) == {neuron_bed.USED_BYTES}
        assert launch.energy is not None
        assert launch.energy.joules is None
        assert "no joules" in (launch.energy.reason or "")

    def test_two_cores_are_refused_for_what_the_simulation_cannot_do(self, ladder: Ladder) -> None:
        planned = ladder.bench(
            *("run", "vit-ladder", "--backend", "neuron", "--dry-run", "--format", "json"),
            *("--set", "processes=2"),
            environment=ladder.environment,
        )
        assert {row["outcome"] for row in planned.rows} == {"unsupported"}
        assert all("do not communicate" in row["reason"] for row in planned.rows)


DDP_HEAD = """\
schema: 1
name: {name}
model: net:build
image_size: 16
classes: 10
batch_size: 8
data: {{ source: cached }}
measure: {{ launches: 1, budget_s: 1.0, windows: 3, diagnostics: false }}
"""
DDP_CASES = """\
cases:
  - case: plain
  - case: ddp
    set: { engine: ddp }
  - case: ddp, accumulating
    set: { engine: ddp, gradient_accumulation: 2 }
"""


@pytest.mark.xla
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    importlib.util.find_spec("torch_xla") is None, reason="torch_xla is not installed"
)
def test_ddp_trains_as_one_process_does(bench: Bench, tmp_path: Path) -> None:
    """A group of one over torch_xla's own process group, functionalization off as on the device."""
    (bench.cwd / "net.py").write_text(NET, encoding="utf-8")
    finished = bench.start(
        *("run", bench.scenario("grouped", DDP_CASES, DDP_HEAD)),
        *("--backend", "neuron", "--format", "json"),
        environment=on_the_bed(bench, tmp_path / "neuron"),
    ).wait(800.0)
    assert finished.code == 0, finished.stderr
    assert {row["case"]: row["outcome"] for row in finished.rows} == {
        "plain": "ok",
        "ddp": "ok",
        "ddp, accumulating": "ok",
    }
    for row in finished.rows:
        assert row["learns"] is True
        assert row["loss_gap"] == pytest.approx(0.0, abs=1e-6)
