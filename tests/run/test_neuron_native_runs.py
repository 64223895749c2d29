"""Whole runs on TorchNeuron, Neuron's native flavour, in simulation: the public ladder and more.

The machine's files and the package are pretended, and torch computes on the host's processors: it
proves the way of every setting to the environment, the device's part in a launch, and nothing about
what a Neuron core makes of it. The real core is in `tests/run/test_neuron_core.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.results.record import CheckResult, Launch, Outcome, Record, Verdict
from tests.backends import neuron_bed
from tests.run.driver import Bench, Finished
from tests.small_vit import SMALL_VIT

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not neuron_bed.has_native_torch(), reason="there is no TorchNeuron for this torch, or none"
    ),
]

VIT = {name: value for name, value in SMALL_VIT.items() if name != "threads"}
LARGEST = {"batch_size": 16}
"""The ladder begins with batches of 16 and goes on with 8."""
RUN = (
    "baseline",
    "loader-worker",
    "batch-size",
    "autocast",
    "bf16-cast",
    "compiler-bf16",
    "fp8",
    "compiler-flags",
)
REFUSED = {"bf16-everywhere": "XLA_USE_BF16", "steps-per-graph": "no graph is cut"}
CAST_BY_COMPILER = {"compiler-bf16": "bf16", "fp8": "fp8_e4m3"}


def settings(values: Mapping[str, object]) -> list[str]:
    found = []
    for name, value in values.items():
        written = (
            "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}"
            if isinstance(value, dict)
            else value
        )
        found += ["--set", f"{name}={written}"]
    return found


def on_the_bed(bench: Bench, root: Path) -> dict[str, str]:
    """Return the variables that put the command onto a simulated machine."""
    machine = neuron_bed.machine(root / "machine", instance="trn2.3xlarge", cores=8)
    bed = neuron_bed.environment(machine, neuron_bed.native_site(root / "packages"))
    bed["PYTHONPATH"] = os.pathsep.join([bed["PYTHONPATH"], bench.environment["PYTHONPATH"]])
    return bed


def records(bench: Bench) -> dict[str, Record]:
    found = (bench.results / "simulated").rglob("2*.json")
    loaded = [Record.model_validate_json(path.read_bytes()) for path in found]
    return {record.requested.case: record for record in loaded}


def result(launch: Launch, name: str) -> tuple[CheckResult, str]:
    (check,) = [check for check in launch.audit if check.name == name]
    return check.result, check.evidence


class Ladder:
    def __init__(self, bench: Bench, root: Path) -> None:
        self.bench, self.environment = bench, on_the_bed(bench, root)
        self.finished: Finished = bench.start(
            *("run", "vit-ladder", "--backend", "neuron", "--format", "json", "--no-health"),
            *("--launches", "1", "--budget", "1", "--set", "measure.windows=3"),
            *settings(VIT | LARGEST),
            environment=self.environment,
        ).wait(600.0)
        self.records = records(bench)

    def launch(self, case: str) -> Launch:
        record = self.records[case]
        assert record.outcome is Outcome.OK, (case, record.reason, record.log_tail)
        return record.launches[0]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    return Ladder(Bench(tmp_path_factory.mktemp("bench")), tmp_path_factory.mktemp("neuron"))


class TestLadder:
    def test_every_rung_runs_from_end_to_end_or_says_why_not(self, ladder: Ladder) -> None:
        assert ladder.finished.code == 0, ladder.finished.stderr
        outcomes = {row["case"]: row["outcome"] for row in ladder.finished.rows}
        wanted = dict.fromkeys(RUN, "ok") | dict.fromkeys(REFUSED, "unsupported")
        assert outcomes == wanted
        for rung, word in REFUSED.items():
            assert word in ladder.finished.row(rung)["reason"]

    def test_every_row_says_that_it_is_simulated(self, ladder: Ladder) -> None:
        for row in ladder.finished.rows:
            assert row["simulated"] is True
            assert row["flavour"] == "native, simulated"
            assert row["device"].startswith("simulated NeuronCore (")
            assert row["mfu"] is None

    def test_no_record_lies_among_real_ones(self, ladder: Ladder) -> None:
        assert ladder.bench.records() == []
        assert set(RUN) <= set(ladder.records)

    def test_the_record_holds_versions_and_what_the_compiler_was_told(self, ladder: Ladder) -> None:
        flags = {case: ladder.records[case].environment.flags for case in RUN}
        assert flags["baseline"]["NEURON_CC_FLAGS"] == "--auto-cast=none"
        assert flags["fp8"]["NEURON_CC_FLAGS"] == "--auto-cast=all --auto-cast-type=fp8_e4m3"
        assert flags["compiler-flags"]["NEURON_COMPILER_OPT_LEVEL"] == "-O3"
        assert flags["baseline"]["TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION"] == "1"
        for case in RUN:
            versions = ladder.records[case].environment.versions
            assert versions["torch-neuronx"] == neuron_bed.native_version()
            assert versions["neuronx-cc"] == neuron_bed.NEURONX_CC

    @pytest.mark.parametrize("case", RUN)
    def test_what_ran_is_what_was_asked_for(self, ladder: Ladder, case: str) -> None:
        launch = ladder.launch(case)
        assert launch.actual["simulated"] is True
        for check in ("as_asked", "batch_as_asked", "no_fallbacks", "parameters_moved"):
            found, evidence = result(launch, check)
            assert found is CheckResult.PASS, (check, evidence)
        # Operators are no graphs.
        assert launch.executions is None

    @pytest.mark.parametrize("case", CAST_BY_COMPILER)
    def test_a_cast_that_the_compiler_did_not_make_is_found_out(
        self, ladder: Ladder, case: str
    ) -> None:
        """There is no neuronx-cc here: the audit must not believe the flag."""
        found, evidence = result(ladder.launch(case), "precision_ran")
        assert found is CheckResult.FAIL
        assert f"cast to {CAST_BY_COMPILER[case]} by the compiler" in evidence
        assert "a known product rounds to fp32" in evidence
        assert ladder.records[case].verdict is Verdict.SUSPECT

    @pytest.mark.parametrize("case", ["baseline", "autocast", "bf16-cast"])
    def test_the_other_precisions_are_proven(self, ladder: Ladder, case: str) -> None:
        found, evidence = result(ladder.launch(case), "precision_ran")
        assert found is CheckResult.PASS, evidence

    def test_memory_is_the_allocators_and_energy_has_a_reason(self, ladder: Ladder) -> None:
        launch = ladder.launch("baseline")
        assert set(launch.memory_window_bytes) == {5_000_000}
        assert launch.peak_memory_bytes == 7_000_000
        assert launch.energy is not None
        assert launch.energy.joules is None
        assert "no joules" in (launch.energy.reason or "")


HEAD = """\
schema: 1
name: {name}
model: vit_tiny_patch16_224
model_kwargs: {{ patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2 }}
image_size: 32
classes: 10
batch_size: 8
data: {{ source: cached }}
measure: {{ launches: 1, budget_s: 0.5, windows: 3, diagnostics: false }}
"""
TWO_CORES = """\
cases:
  - case: two
    set: { processes: 2 }
  - case: two, accumulating
    set: { processes: 2, gradient_accumulation: 2 }
  - case: five
    set: { processes: 5 }
"""


def test_two_cores_train_as_one_does_over_torchneurons_process_group(
    bench: Bench, tmp_path: Path
) -> None:
    finished = bench.start(
        *("run", bench.scenario("cores", TWO_CORES, HEAD)),
        *("--backend", "neuron", "--format", "json"),
        environment=on_the_bed(bench, tmp_path / "neuron"),
    ).wait(600.0)
    assert finished.code == 0, finished.stderr
    assert {row["case"]: row["outcome"] for row in finished.rows} == {
        "two": "ok",
        "two, accumulating": "ok",
        "five": "unsupported",
    }
    assert "4 NeuronCores are visible" in finished.row("five")["reason"]
    found = records(bench)
    for case in ("two", "two, accumulating"):
        assert finished.row(case)["learns"] is True
        launch = found[case].launches[0]
        state, evidence = result(launch, "collectives_real")
        assert state is CheckResult.PASS
        assert evidence == "world 2 of 2, all-reduce of rank + 1 gives 3"
        assert len(launch.window_s) == 2


COMPILED = """\
compile: neuron
precision: amp-bf16
"""


def test_its_compiler_is_asked_cold_and_then_warm(bench: Bench, tmp_path: Path) -> None:
    head = HEAD.replace("launches: 1", "launches: 2")
    finished = bench.start(
        *("run", bench.scenario("compiled", COMPILED, head), "--no-health"),
        *("--backend", "neuron", "--format", "json"),
        environment=on_the_bed(bench, tmp_path / "neuron"),
    ).wait(600.0)
    assert finished.code == 0, finished.stderr
    (record,) = records(bench).values()
    assert record.outcome is Outcome.OK, record.reason
    assert [one.compilation.cache for one in record.launches] == ["cold", "warm"]
    at_start = [one.actual["compiled_graphs_in_cache_at_start"] for one in record.launches]
    assert at_start == [0, 2]
    for launch in record.launches:
        for check in ("as_asked", "compiled_whole"):
            found, evidence = result(launch, check)
            assert found is CheckResult.PASS, (check, evidence)
    assert record.launches[0].actual["compile"] == "neuron"


def test_compiled_beforehand_the_first_launch_is_warm(bench: Bench, tmp_path: Path) -> None:
    finished = bench.start(
        *("run", bench.scenario("beforehand", COMPILED, HEAD), "--no-health", "--precompile"),
        *("--backend", "neuron", "--format", "json"),
        environment=on_the_bed(bench, tmp_path / "neuron"),
    ).wait(300.0)
    assert finished.code == 0, finished.stderr
    (record,) = records(bench).values()
    assert record.outcome is Outcome.OK, record.reason
    assert record.precompiled is not None
    (launch,) = record.launches
    assert launch.compilation.cache == "warm"
    assert launch.actual["compiled_graphs_in_cache_at_start"] == 2


def test_a_graph_that_its_compiler_cannot_make_is_a_row_of_its_own_kind(
    bench: Bench, tmp_path: Path
) -> None:
    bed = on_the_bed(bench, tmp_path / "neuron") | {"FAKE_NEURON_CANNOT_COMPILE": "1"}
    bench.start(
        *("run", bench.scenario("broken", COMPILED, HEAD), "--no-health"),
        *("--backend", "neuron", "--format", "json"),
        environment=bed,
    ).wait(300.0)
    (record,) = records(bench).values()
    assert record.outcome is Outcome.COMPILE_FAILED
    assert "NEFF compilation failed" in f"{record.reason}{record.log_tail}"


def test_a_case_is_refused_where_an_import_overrules_its_options(
    bench: Bench, tmp_path: Path
) -> None:
    """A worker imports torch, which imports TorchNeuron, before it opens the device."""
    bed = on_the_bed(bench, tmp_path / "neuron") | {"FAKE_NEURON_APPENDS": "--optlevel=1"}
    bench.start(
        *("run", bench.scenario("overruled", "neuron: { optlevel: 3 }\n", HEAD), "--no-health"),
        *("--backend", "neuron", "--format", "json"),
        environment=bed,
    ).wait(300.0)
    (record,) = records(bench).values()
    assert record.outcome is Outcome.UNSUPPORTED, record.reason
    assert "NEURON_CC_FLAGS --optlevel" in (record.reason or "")
    assert "changed what was chosen to 1" in (record.reason or "")


def test_an_operator_that_runs_on_the_host_makes_a_row_suspect(
    bench: Bench, tmp_path: Path
) -> None:
    bed = on_the_bed(bench, tmp_path / "neuron") | {"FAKE_NEURON_FALLS_BACK": "aten::erfinv"}
    finished = bench.start(
        *("run", bench.scenario("fallen", "", HEAD), "--no-health"),
        *("--backend", "neuron", "--format", "json"),
        environment=bed,
    ).wait(300.0)
    (record,) = records(bench).values()
    found, evidence = result(record.launches[0], "no_fallbacks")
    assert found is CheckResult.FAIL
    assert "aten::erfinv" in evidence
    assert record.verdict is Verdict.SUSPECT
    assert finished.rows[0]["verdict"] == "suspect"
