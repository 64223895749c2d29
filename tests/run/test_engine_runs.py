"""Every engine through the command line: two processes of ours, or of torchrun, in one table."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from bench.results.record import CheckResult, Launch, Outcome, Record
from tests.run.driver import Bench
from tests.run.test_command import TORCHRUN

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(900)]

HEAD = """\
schema: 1
name: {name}
model: vit_tiny_patch16_224
model_kwargs: {{ patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2 }}
image_size: 32
classes: 10
batch_size: 8
threads: 1
data: {{ source: cached }}
measure: {{ launches: 1, budget_s: 0.6, windows: 3, warmup_s: 0.2, health_steps: 5 }}
"""
OWN = {
    "ddp": "engine: ddp",
    "fsdp": "engine: fsdp",
    "fsdp on the host": "engine: fsdp, fsdp: { offload: cpu }",
}
ACCELERATE = {"accelerate": "engine: accelerate"}
ZERO = {
    "zero 0": "stage: 0",
    "zero 1": "stage: 1",
    "zero 2": "stage: 2",
    "zero 3": "stage: 3",
    "zero 2, optimizer on the host": "stage: 2, offload_optimizer: cpu",
    "zero 3, all on the host": "stage: 3, offload_optimizer: cpu, offload_param: cpu",
}
CASES = (
    OWN
    | ACCELERATE
    | {name: f"engine: deepspeed, zero: {{ {zero} }}" for name, zero in ZERO.items()}
)
BUSY = {"steady_state", "fence_waits", "windows_steady"}
"""What a machine that others use may fail."""


def absent(case: str) -> bool:
    """Say whether the case's engine is a package that is not here."""
    return case not in OWN and importlib.util.find_spec(package(case)) is None


def package(case: str) -> str:
    """Return the package whose engine a case asks for."""
    return "deepspeed" if case in ZERO else "accelerate"


def failed(launch: Launch) -> set[str]:
    """Return the checks that make the launch suspect, whoever else is running."""
    return {
        check.name
        for check in launch.audit
        if check.result is CheckResult.FAIL and str(check.weight) == "suspect"
    } - BUSY


def passed(launch: Launch, name: str) -> str:
    """Return the evidence of a check that must have passed."""
    (check,) = [check for check in launch.audit if check.name == name]
    assert check.result is CheckResult.PASS, check.evidence
    return check.evidence


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    bench = Bench(tmp_path_factory.mktemp("engines"))
    entries = [f"  - case: {name!r}\n    set: {{ {words} }}" for name, words in CASES.items()]
    scenario = bench.scenario("engines", "cases:\n" + "\n".join(entries) + "\n", HEAD)
    finished = bench.start(
        *("run", scenario, "--backend", "cpu", "--processes", "2", "--format", "json")
    ).wait(timeout_s=800)
    assert finished.code == 0, finished.stderr
    assert [row["case"] for row in finished.rows] == list(CASES)
    assert bench.processes() == []
    return {record.requested.case: record for record in bench.records()}


@pytest.mark.parametrize("case", CASES)
def test_an_engine_trains_over_two_processes_and_passes_its_guards(
    records: dict[str, Record], case: str
) -> None:
    record = records[case]
    if absent(case):
        assert record.outcome is Outcome.UNSUPPORTED
        assert f'pip install "accelbench[{package(case)}]"' in (record.reason or "")
        return
    assert record.outcome is Outcome.OK, record.reason
    (launch,) = record.launches
    assert failed(launch) == set()
    assert passed(launch, "collectives_real") == "world 2 of 2, all-reduce of rank + 1 gives 3"
    assert "weights are equal over the ranks; least gradient norm" in passed(launch, "ranks_agree")
    assert "engine" in passed(launch, "as_asked")
    assert len(launch.window_s) == 2
    assert launch.actual["processes"] == 2
    assert launch.actual["global_batch"] == 16


@pytest.mark.parametrize("case", CASES)
def test_its_loss_on_one_batch_is_that_of_one_process_in_fp32(
    records: dict[str, Record], case: str
) -> None:
    if absent(case):
        pytest.skip("its package is not installed")
    health, reference = records[case].health, records["ddp"].health
    assert health is not None
    assert reference is not None
    assert health.learns
    assert health.loss_gap == pytest.approx(0.0, abs=1e-4)
    assert health.gradient_norm == pytest.approx(reference.gradient_norm, rel=1e-4)


@pytest.mark.parametrize("case", [name for name in CASES if "host" in name])
def test_a_row_that_offloads_says_that_a_cpu_saves_nothing_by_it(
    records: dict[str, Record], case: str
) -> None:
    if absent(case):
        pytest.skip("its package is not installed")
    (launch,) = records[case].launches
    (check,) = [check for check in launch.audit if check.name == "offload_saves"]
    assert (check.result, str(check.weight)) == (CheckResult.FAIL, "remark")
    assert "the device's memory is the host's" in check.evidence


def test_the_configuration_of_deepspeed_is_in_the_record(records: dict[str, Record]) -> None:
    if absent("zero 2, optimizer on the host"):
        pytest.skip("its package is not installed")
    (launch,) = records["zero 2, optimizer on the host"].launches
    told: Any = launch.actual["deepspeed_config"]
    assert told["gradient_clipping"] == 0.0
    assert told["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert told["train_batch_size"] == 16


@pytest.mark.parametrize(
    "case",
    ["fsdp", "accelerate", "zero 1", "zero 2, optimizer on the host", "zero 3, all on the host"],
)
def test_the_same_under_torchrun(tmp_path: Path, case: str) -> None:
    if absent(case):
        pytest.skip("its package is not installed")
    bench = Bench(tmp_path)
    scenario = bench.scenario(
        "placed", f"cases:\n  - case: it\n    set: {{ {CASES[case]} }}\n", HEAD
    )
    finished = bench.run(scenario, backend="cpu", command=TORCHRUN)
    assert finished.code == 0, finished.stderr
    (row,) = finished.rows
    assert (row["outcome"], row["processes"]) == ("ok", 2)
    (record,) = bench.records()
    (launch,) = record.launches
    assert failed(launch) == set()
    passed(launch, "ranks_agree")
    passed(launch, "as_asked")
    assert bench.processes() == []
