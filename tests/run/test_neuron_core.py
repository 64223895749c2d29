"""Whole runs on a real NeuronCore, of whichever flavour is installed: every setting is audited.

Run by `tox -e neuron-device` and `tox -e neuron-device-native` where a device is; nothing else
proves the adapter.
"""

from __future__ import annotations

import importlib.metadata
import os

import pytest

from bench.backends.neuron_environment import VISIBLE, visible_cores
from bench.backends.neuron_machine import XLA, Machine
from bench.results.record import CheckResult, Launch, Outcome, Record, Verdict
from bench.scenarios.schema import Knobs
from tests import devices
from tests.run.driver import Bench, Finished

pytestmark = [
    pytest.mark.neuron,
    pytest.mark.slow,
    pytest.mark.timeout(10800),
    pytest.mark.skipif(not devices.has_neuron(), reason=devices.NO_NEURON),
]

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
  - case: by chance
    set: { precision: amp-bf16, neuron.stochastic_rounding: true }
  - case: four a graph
    set: { loader.batches_per_execution: 4 }
  - case: accumulating
    set: { gradient_accumulation: 2 }
  - case: recomputing
    set: { activation_checkpointing: true }
  - case: compiler-bf16
    set: { neuron.auto_cast: all, neuron.auto_cast_type: bf16 }
  - case: compiler-fp8
    set: { neuron.auto_cast: all, neuron.auto_cast_type: fp8_e4m3 }
  - case: flags
    set: { neuron.model_type: transformer, neuron.optlevel: 1 }
  - case: functionalized
    set: { neuron.functionalization: true }
  - case: physical cores
    set: { neuron.lnc: 1 }
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
    "native": {"openxla", "bf16-env", "four a graph", "functionalized"},
}
"""Cases that the flavour refuses; `fused` it may refuse besides, where it has no such kernel."""
WITH_LNC = ("trn2", "trn3")
"""Beginnings of the families whose logical cores may be made of physical ones one by one."""
MUST_HOLD = (
    "as_asked",
    "batch_as_asked",
    "batches_as_asked",
    "collectives_real",
    "compiled_whole",
    "executions_counted",
    "fence_waits",
    "flops_below_peak",
    "loss_finite",
    "no_compile_in_window",
    "no_fallbacks",
    "parameters_moved",
    "precision_ran",
    "updates_counted",
)
OF_TRAINING = ("loss_finite", "parameters_moved", "updates_counted")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bench")


def family() -> str:
    return Machine.here(None, importlib.metadata.version).family() or ""


def applies(check: str, knobs: Knobs, flavour: str) -> bool:
    """Return whether a check has something to say of a case; of the others it says so itself."""
    no_fp8_peak = knobs.neuron.auto_cast_type == "fp8_e4m3" and family().startswith("trn3")
    return {
        "collectives_real": knobs.processes > 1,
        "compiled_whole": knobs.compile != "none",
        # TorchNeuron executes operators, which nobody counts beforehand.
        "executions_counted": flavour == XLA,
        # AWS gives it for MXFP8 only.
        "flops_below_peak": not no_fp8_peak,
        **dict.fromkeys(OF_TRAINING, knobs.task == "train"),
    }.get(check, True)


def result(launch: Launch, name: str) -> CheckResult:
    (check,) = [check for check in launch.audit if check.name == name]
    return check.result


def graphs_at_start(record: Record) -> list[int]:
    found = [one.actual["compiled_graphs_in_cache_at_start"] for one in record.launches]
    assert all(isinstance(count, int) for count in found), found
    return [int(str(count)) for count in found]


class Run:
    def __init__(self, bench: Bench, *options: str) -> None:
        self.finished: Finished = bench.start(
            *("run", bench.scenario("on-neuron", CASES, HEAD)),
            *("--backend", "neuron", "--format", "json", *options),
        ).wait(10000.0)
        self.records = {r.requested.case: r for r in bench.records()}
        (self.flavour,) = {row["flavour"] for row in self.finished.rows}

    def ran(self) -> dict[str, Record]:
        """Return the cases that the flavour does not refuse."""
        return {
            case: record
            for case, record in self.records.items()
            if record.outcome is not Outcome.UNSUPPORTED
        }


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(Bench(tmp_path_factory.mktemp("neuron")))


class TestEveryCase:
    def test_nothing_fails_and_what_is_refused_is_known(self, real: Run) -> None:
        assert real.finished.code == 0, real.finished.stderr
        wrong = {case: r.reason for case, r in real.ran().items() if r.outcome is not Outcome.OK}
        assert wrong == {}
        expected = set(REFUSED[real.flavour])
        if not family().startswith(WITH_LNC):
            expected.add("physical cores")
        refused = real.records.keys() - real.ran().keys()
        assert refused | {"fused"} == expected | {"fused"}

    def test_no_row_is_simulated(self, real: Run) -> None:
        assert not any(row["simulated"] for row in real.finished.rows)
        assert real.flavour in REFUSED

    def test_no_row_is_suspect(self, real: Run) -> None:
        suspects = {
            case: record.verdict_reason
            for case, record in real.records.items()
            if record.verdict is Verdict.SUSPECT
        }
        assert suspects == {}

    @pytest.mark.parametrize("check", MUST_HOLD)
    def test_what_ran_is_shown_to_be_what_was_asked_for(self, real: Run, check: str) -> None:
        """The first launch of a case is the one that is looked into."""
        wrong = {}
        for case, record in real.ran().items():
            assert record.launches, (case, record.reason)
            if applies(check, record.requested.knobs, real.flavour):
                (found,) = [c for c in record.launches[0].audit if c.name == check]
                if found.result is not CheckResult.PASS:
                    wrong[case] = f"{found.result}: {found.evidence}"
        assert wrong == {}

    @pytest.mark.parametrize("check", MUST_HOLD)
    def test_no_later_launch_contradicts_it(self, real: Run, check: str) -> None:
        failed = [
            case
            for case, record in real.ran().items()
            for launch in record.launches
            if result(launch, check) is CheckResult.FAIL
        ]
        assert failed == []

    def test_every_training_case_still_learns(self, real: Run) -> None:
        sick = {
            case: record.health
            for case, record in real.ran().items()
            if record.requested.knobs.task == "train"
            if record.health is None or record.health.learns is not True
        }
        assert sick == {}

    def test_the_peak_of_this_device_is_known(self, real: Run) -> None:
        """Else its name is not the one in the table."""
        shares = {row["case"]: row["mfu"] for row in real.finished.rows}
        for case in ("fp32", "compiler-bf16", "two cores"):
            assert shares[case] is not None, real.records[case].device
            assert 0.0 < shares[case] < 1.0


class TestSettings:
    def test_the_second_launch_finds_what_the_first_compiled(self, real: Run) -> None:
        record = real.records["fp32"]
        assert [one.compilation.cache for one in record.launches] == ["cold", "warm"]
        first, second = graphs_at_start(record)
        assert first == 0
        assert second > 0

    def test_the_compilers_own_casts_act(self, real: Run) -> None:
        """Else the flags went nowhere: the known product would round as without them."""
        for case, rounds in (("fp32", "fp32"), ("compiler-bf16", "bf16"), ("compiler-fp8", "fp8")):
            inspection = real.records[case].launches[0].inspection
            assert inspection is not None
            assert inspection.matmul_format == rounds, case

    def test_the_core_tells_its_memory(self, real: Run) -> None:
        launch = real.records["fp32"].launches[0]
        assert launch.actual["telemetry"] in ("sysfs", "neuron-monitor")
        assert launch.memory_window_bytes
        if real.flavour != XLA:
            assert max(launch.memory_window_bytes) <= (launch.peak_memory_bytes or 0)
        assert launch.energy is not None
        assert launch.energy.joules is None


PRECOMPILED = ("fp32", "amp-bf16", "four a graph", "two cores", "compiled")
"""With the XLA flavour the first three note their graphs, and the fourth takes real steps."""


class TestPrecompiled:
    @pytest.fixture(scope="class")
    def filled(self, tmp_path_factory: pytest.TempPathFactory) -> Run:
        chosen = [word for case in PRECOMPILED for word in ("--case", case)]
        bench = Bench(tmp_path_factory.mktemp("precompiled"))
        return Run(bench, "--precompile", "--no-health", "--launches", "1", *chosen)

    def test_every_case_runs(self, filled: Run) -> None:
        assert filled.finished.code == 0, filled.finished.stderr
        assert "not precompiled" not in filled.finished.stderr
        assert filled.ran().keys() == set(PRECOMPILED) - REFUSED[filled.flavour]
        assert {record.outcome for record in filled.ran().values()} == {Outcome.OK}

    def test_the_first_launch_finds_graphs_and_compiles_none_in_a_window(self, filled: Run) -> None:
        for case, record in filled.ran().items():
            assert record.precompiled is not None, case
            assert record.precompiled.compiles > 0, case
            (launch,) = record.launches
            assert launch.compilation.cache == "warm"
            assert graphs_at_start(record)[0] > 0, case
            assert result(launch, "no_compile_in_window") is CheckResult.PASS

    def test_it_computes_what_it_computes_without(self, filled: Run) -> None:
        """A graph that was only noted returns zeros: nothing of that may reach a launch."""
        for case, record in filled.ran().items():
            for check in ("loss_finite", "parameters_moved", "updates_counted"):
                assert result(record.launches[0], check) is CheckResult.PASS, (case, check)


def test_under_torchrun_each_rank_has_a_core(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    bench = Bench(tmp_path_factory.mktemp("torchrun"))
    # So many as there are ranks: torch_xla refuses to share out more.
    shown = visible_cores(os.environ.get(VISIBLE, ""))
    cores = {} if shown is None else {VISIBLE: ",".join(map(str, shown[:2]))}
    finished = bench.start(
        *("run", bench.scenario("in-place", head=HEAD), "--backend", "neuron", "--format", "json"),
        command=TORCHRUN,
        environment=cores,
    ).wait(3000.0)
    assert finished.code == 0, finished.stderr
    (row,) = finished.rows
    assert (row["outcome"], row["processes"]) == ("ok", 2)
    (record,) = bench.records()
    (launch,) = record.launches
    for check in ("collectives_real", "as_asked", "parameters_moved", "updates_counted"):
        assert result(launch, check) is CheckResult.PASS, check
