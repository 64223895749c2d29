"""Whole runs on a real GPU: every setting that the backend honours gives an audited number.

Run by `tox -e cuda` where a GPU is; nothing else proves the adapter.
"""

from __future__ import annotations

import pytest

from bench.backends.base import Probe
from bench.backends.registry import Prober
from bench.results.record import CheckResult, Launch, Outcome, Record, Verdict
from tests import devices
from tests.run.driver import Bench, Finished

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not devices.has_nvidia(), reason=devices.NO_NVIDIA),
]

HEAD = """\
schema: 1
name: {name}
model: vit_tiny_patch16_224
model_kwargs: {{ depth: 4 }}
classes: 100
batch_size: 32
data: {{ source: cached }}
measure: {{ launches: 1, budget_s: 3.0, windows: 5 }}
"""
CASES = """\
cases:
  - case: fp32
  - case: tf32
    set: { precision: tf32 }
  - case: amp-bf16
    set: { precision: amp-bf16 }
  - case: amp-fp16
    set: { precision: amp-fp16 }
  - case: amp-fp16, fused
    set: { precision: amp-fp16, optimizer_impl: fused }
  - case: capturable
    set: { optimizer_impl: capturable }
  - case: bf16
    set: { precision: bf16, optimizer: sgd, learning_rate: 0.1 }
  - case: resident
    set: { data.source: device }
  - case: workers, pinned
    set: { data.workers: 2, data.pin_memory: true }
  - case: accumulating, channels last
    set: { gradient_accumulation: 3, channels_last: true }
  - case: inductor
    set: { precision: amp-bf16, compile: inductor }
  - case: replayed
    set: { precision: amp-bf16, compile: inductor, compile_mode: reduce-overhead }
  - case: fp8, tensorwise
    set: { precision: fp8-tensorwise, compile: inductor }
  - case: fp8, rowwise
    set: { precision: fp8-rowwise, compile: inductor }
  - case: fp8, tuned
    set: { precision: fp8-tensorwise, compile: inductor, compile_mode: max-autotune }
  - case: fp8, odd batch
    set: { precision: fp8-tensorwise, compile: inductor, batch_size: 24 }
  - case: infer
    set: { task: infer, precision: amp-fp16 }
  - case: infer, replayed
    set: { task: infer, compile: inductor, compile_mode: reduce-overhead }
  - case: two processes
    set: { processes: 2 }
  - case: fsdp
    set: { engine: fsdp, precision: amp-bf16 }
  - case: fsdp, on the host
    set: { engine: fsdp, fsdp: { offload: cpu }, precision: amp-bf16 }
  - case: accelerate
    set: { engine: accelerate, precision: amp-bf16 }
  - case: accelerate, compiled
    set: { engine: accelerate, compile: inductor, precision: amp-bf16 }
  - case: zero 2
    set: { engine: deepspeed, precision: amp-bf16 }
  - case: zero 2, on the host
    set: { engine: deepspeed, zero: { offload_optimizer: cpu }, precision: amp-bf16 }
  - case: zero 3, sharded by two
    set: { engine: deepspeed, zero: { stage: 3 }, processes: 2 }
  - case: several a graph
    set: { loader.batches_per_execution: 4 }
"""
MUST_HOLD = (
    "fence_waits",
    "no_compile_in_window",
    "as_asked",
    "precision_ran",
    "batch_as_asked",
    "batches_as_asked",
    "gradients_untouched",
    "parameters_moved",
    "updates_counted",
    "loss_finite",
    "flops_below_peak",
    "collectives_real",
    "ranks_agree",
    "compiled_whole",
)
SHOWN = ("fence_waits", "as_asked", "precision_ran")
"""Those of them that apply to every case: one that says nothing has shown nothing."""
TAKES_8_0 = {
    *("tf32", "amp-bf16", "bf16", "inductor", "replayed"),
    *("fsdp", "fsdp, on the host", "accelerate", "accelerate, compiled"),
    *("zero 2", "zero 2, on the host"),
}
TAKES_TWO = {"two processes", "zero 3, sharded by two"}
TAKES_8_9 = {"fp8, tensorwise", "fp8, rowwise", "fp8, tuned"}
NOWHERE = {"several a graph", "fp8, odd batch"}


def refused_by(probe: Probe) -> set[str]:
    """Return the cases that such NVIDIA GPUs refuse; a library that is missing is no excuse."""
    facts = probe.facts
    assert isinstance(facts["capability"], list)
    refused = set(NOWHERE)
    for least, cases in (([7, 0], {"infer, replayed"}), ([8, 0], TAKES_8_0), ([8, 9], TAKES_8_9)):
        if facts["capability"] < least:  # type: ignore[operator]
            refused |= cases
    if probe.device_count < 2 or not facts["alike"]:
        refused |= TAKES_TWO
    return refused


class Run:
    def __init__(self, bench: Bench) -> None:
        self.refused = refused_by(Prober().probe("cuda"))
        self.finished: Finished = bench.start(
            *("run", bench.scenario("on-cuda", CASES, HEAD)),
            *("--backend", "cuda", "--format", "json"),
        ).wait(1500.0)
        self.records: dict[str, Record] = {r.requested.case: r for r in bench.records()}

    def launch(self, case: str) -> Launch:
        """Return the launch of a case, which an older GPU, or one alone, has to refuse."""
        record = self.records[case]
        if case in self.refused:
            pytest.skip(f"{case}: {record.reason}")
        assert record.outcome is Outcome.OK, (case, record.reason)
        return record.launches[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(Bench(tmp_path_factory.mktemp("cuda")))


def test_every_case_runs_but_those_that_such_a_gpu_refuses(run: Run) -> None:
    assert run.finished.code == 0, run.finished.stderr
    ended = {case: (record.outcome, record.reason) for case, record in run.records.items()}
    assert {case for case, (outcome, _) in ended.items() if outcome is not Outcome.OK} == (
        run.refused
    ), ended
    assert {ended[case][0] for case in run.refused} == {Outcome.UNSUPPORTED}, ended


@pytest.mark.parametrize("check", MUST_HOLD)
def test_what_ran_is_what_was_asked_for_in_every_case(run: Run, check: str) -> None:
    """The first launch of a case is the one that is looked into."""
    allowed = [CheckResult.PASS, *([] if check in SHOWN else [CheckResult.NOT_APPLICABLE])]
    wrong = {}
    for case in run.records.keys() - run.refused:
        found = [c for c in run.launch(case).audit if c.name == check]
        if [c.result in allowed for c in found] != [True]:
            wrong[case] = found
    assert wrong == {}


def test_two_processes_add_up_what_they_exchange(run: Run) -> None:
    found = {c.name: c.result for c in run.launch("two processes").audit}
    assert found["collectives_real"] is CheckResult.PASS


def test_no_row_is_suspect(run: Run) -> None:
    suspects = {
        case: record.verdict_reason
        for case, record in run.records.items()
        if record.verdict is Verdict.SUSPECT
    }
    assert suspects == {}


def test_every_training_case_still_learns(run: Run) -> None:
    sick = {
        case: record.health
        for case, record in run.records.items()
        if record.outcome is Outcome.OK and record.requested.knobs.task == "train"
        if record.health is None or record.health.learns is not True
    }
    assert sick == {}


@pytest.mark.parametrize(
    ("case", "rounds_to"),
    [("fp32", "fp32"), ("tf32", "tf32"), ("amp-bf16", "bf16"), ("amp-fp16", "fp16")],
)
def test_a_known_product_rounds_as_the_precision_says(run: Run, case: str, rounds_to: str) -> None:
    inspected = run.launch(case).inspection
    assert inspected is not None
    assert inspected.matmul_format == rounds_to


@pytest.mark.parametrize("case", ["fp8, tensorwise", "fp8, rowwise", "fp8, tuned"])
def test_linear_layers_multiply_in_float8(run: Run, case: str) -> None:
    launch = run.launch(case)
    assert launch.inspection is not None
    types = launch.inspection.matmul_types or {}
    # Four layers in each of four blocks, three products each.
    assert types["fp8"] == 48
    assert "emulated" not in str(launch.actual["precision"])


def test_a_batch_that_float8_does_not_take_is_refused_before_it_runs(run: Run) -> None:
    if run.refused >= TAKES_8_9:
        pytest.skip("this GPU has no float8")
    record = run.records["fp8, odd batch"]
    assert record.outcome is Outcome.UNSUPPORTED
    assert "set batch_size to a multiple of 16" in str(record.reason)
    assert record.launches == []


@pytest.mark.parametrize("case", ["fp32", "inductor", "replayed"])
def test_the_gpus_own_clock_agrees_with_the_hosts(run: Run, case: str) -> None:
    """A fence that did not wait would stop the host's clock before the GPU's last mark."""
    diagnosed = run.launch(case).diagnostics
    assert diagnosed is not None
    steps = diagnosed.device_steps
    assert steps is not None
    assert steps.p50_ms is not None
    assert 0.9 < steps.sum_s / steps.host_s < 1.01


@pytest.mark.parametrize("case", ["fp32", "replayed"])
def test_the_gpu_tells_memory_energy_and_clock(run: Run, case: str) -> None:
    launch = run.launch(case)
    assert launch.peak_memory_bytes is not None
    assert launch.peak_memory_bytes > 10 * 2**20
    assert launch.memory_window_bytes
    assert launch.energy is not None
    assert (launch.energy.joules is None) != (launch.energy.reason is None)
    assert launch.clocks is not None


@pytest.mark.parametrize("engine", ["fsdp", "zero 2"])
def test_what_is_kept_on_the_host_is_saved_on_the_device(run: Run, engine: str) -> None:
    on_the_device, on_the_host = run.launch(engine), run.launch(f"{engine}, on the host")
    assert on_the_device.peak_memory_bytes is not None
    assert on_the_host.peak_memory_bytes is not None
    assert on_the_host.peak_memory_bytes < on_the_device.peak_memory_bytes
    assert on_the_host.actual["own_memory"] is True


def test_autocast_attention_ran_in_a_fused_kernel(run: Run) -> None:
    inspected = run.launch("amp-bf16").inspection
    assert inspected is not None
    assert inspected.attention


def test_graphs_that_replay_are_no_slower_than_compiled_code_without(run: Run) -> None:
    """A small model at a small batch is bound by launches, which a replay saves."""
    replayed, compiled = run.launch("replayed"), run.launch("inductor")
    assert replayed.actual["cuda_graphs_skipped"] == 0
    assert replayed.samples_per_s > 0.95 * compiled.samples_per_s
