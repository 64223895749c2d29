"""Whole runs on Neuron: the ladder simulated on the XLA flavour, and small models on a real core.

The simulation has the machine's files and packages pretended, and torch_xla compute on the host's
processors: it proves the way of every setting to the compiler's and the runtime's environment, and
nothing about what a Neuron core makes of it. The real core, of whichever flavour is installed, is
for `tox -e neuron-device`.
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
        for check in ("as_asked", "batch_as_asked", "no_fallbacks", "parameters_moved"):
            assert result(launch, check) is not CheckResult.FAIL, check
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


HEAD = """\
schema: 1
name: {name}
model: vit_tiny_patch16_224
model_kwargs: {{ depth: 2 }}
classes: 100
batch_size: 8
data: {{ source: cached }}
measure: {{ launches: 2, budget_s: 6.0, windows: 5 }}
"""
CASES = """\
cases:
  - case: fp32
  - case: amp-bf16
    set: { precision: amp-bf16 }
  - case: bf16-env
    set: { precision: bf16-env }
  - case: bf16
    set: { precision: bf16, learning_rate: 0.01, optimizer: sgd }
  - case: four a graph
    set: { loader.batches_per_execution: 4 }
  - case: accumulating
    set: { gradient_accumulation: 2 }
  - case: compiler-bf16
    set: { neuron.auto_cast: all, neuron.auto_cast_type: bf16 }
  - case: compiler-fp8
    set: { neuron.auto_cast: all, neuron.auto_cast_type: fp8_e4m3 }
  - case: flags
    set: { neuron.model_type: transformer, neuron.optlevel: 1 }
  - case: infer
    set: { task: infer, precision: amp-bf16 }
  - case: two cores
    set: { processes: 2 }
  - case: openxla
    set: { compile: openxla }
  - case: compiled
    set: { compile: neuron }
  - case: compiled amp-bf16
    set: { compile: neuron, precision: amp-bf16 }
  - case: fused
    set: { optimizer_impl: fused }
"""
REFUSED = {
    "xla": {"openxla", "compiled", "compiled amp-bf16", "fused"},
    "native": {"openxla", "bf16-env", "four a graph"},
}
"""Cases that the flavour refuses; `fused` it may refuse besides, where it has no such kernel."""
MUST_HOLD = (
    "fence_waits",
    "no_compile_in_window",
    "executions_counted",
    "no_fallbacks",
    "as_asked",
    "precision_ran",
    "batch_as_asked",
    "parameters_moved",
    "updates_counted",
    "loss_finite",
    "flops_below_peak",
    "collectives_real",
    "compiled_whole",
)


class Real:
    def __init__(self, bench: Bench) -> None:
        self.finished: Finished = bench.start(
            *("run", bench.scenario("on-neuron", CASES, HEAD)),
            *("--backend", "neuron", "--format", "json"),
        ).wait(7000.0)
        self.records = {r.requested.case: r for r in bench.records()}
        (self.flavour,) = {row["flavour"] for row in self.finished.rows}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    return Real(Bench(tmp_path_factory.mktemp("neuron")))


@pytest.mark.neuron
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(
    not Path("/dev/neuron0").exists(),
    reason="no Neuron device here: run tox -e neuron-device where one is",
)
class TestRealCore:
    def test_nothing_fails(self, real: Real) -> None:
        assert real.finished.code == 0, real.finished.stderr
        refused = set()
        for case, record in real.records.items():
            assert record.outcome in (Outcome.OK, Outcome.UNSUPPORTED), (case, record.reason)
            if record.outcome is Outcome.UNSUPPORTED:
                refused.add(case)
        assert refused | {"fused"} == REFUSED[real.flavour] | {"fused"}

    def test_no_row_is_simulated(self, real: Real) -> None:
        assert not any(row["simulated"] for row in real.finished.rows)
        assert real.flavour in REFUSED

    @pytest.mark.parametrize("check", MUST_HOLD)
    def test_what_ran_is_what_was_asked_for_in_every_case(self, real: Real, check: str) -> None:
        failed = {
            case: [c.evidence for c in launch.audit if c.name == check]
            for case, record in real.records.items()
            for launch in record.launches
            if any(c.name == check and c.result is CheckResult.FAIL for c in launch.audit)
        }
        assert failed == {}

    @pytest.mark.parametrize("check", ["fence_waits", "as_asked", "precision_ran"])
    def test_it_is_shown_of_every_case_and_not_only_contradicted_in_none(
        self, real: Real, check: str
    ) -> None:
        """The first launch of a case is the one that is looked into."""
        shown = {
            case: result(record.launches[0], check) if record.launches else None
            for case, record in real.records.items()
            if record.outcome is not Outcome.UNSUPPORTED
        }
        assert shown
        assert {case: found for case, found in shown.items() if found is not CheckResult.PASS} == {}

    def test_two_cores_add_up_what_they_exchange(self, real: Real) -> None:
        record = real.records["two cores"]
        assert record.outcome is Outcome.OK, record.reason
        assert record.launches
        for launch in record.launches:
            assert result(launch, "collectives_real") is CheckResult.PASS

    def test_every_training_case_still_learns(self, real: Real) -> None:
        sick = {
            case: record.health
            for case, record in real.records.items()
            if record.outcome is Outcome.OK and record.requested.knobs.task == "train"
            if record.health is None or record.health.learns is not True
        }
        assert sick == {}

    def test_the_second_launch_finds_what_the_first_compiled(self, real: Real) -> None:
        record = real.records["fp32"]
        assert [one.compilation.cache for one in record.launches] == ["cold", "warm"]
        found = [one.actual["compiled_graphs_in_cache_at_start"] for one in record.launches]
        assert found[0] == 0
        assert isinstance(found[1], int)
        assert found[1] > 0

    def test_operators_that_ran_on_the_host_are_counted_at_all(self, real: Real) -> None:
        for case, record in real.records.items():
            for launch in record.launches:
                (check,) = [c for c in launch.audit if c.name == "no_fallbacks"]
                assert check.result is CheckResult.PASS, (case, check.evidence)

    def test_the_compilers_own_casts_act(self, real: Real) -> None:
        """Else the flags went nowhere: the known product would round as without them."""
        for case, rounds in (("fp32", "fp32"), ("compiler-bf16", "bf16"), ("compiler-fp8", "fp8")):
            inspection = real.records[case].launches[0].inspection
            assert inspection is not None
            assert inspection.matmul_format == rounds, case

    def test_the_core_tells_its_memory(self, real: Real) -> None:
        launch = real.records["fp32"].launches[0]
        assert launch.actual["telemetry"] in ("sysfs", "neuron-monitor")
        assert launch.memory_window_bytes
        if real.flavour == "native":
            assert max(launch.memory_window_bytes) <= (launch.peak_memory_bytes or 0)
        assert launch.energy is not None
        assert launch.energy.joules is None
