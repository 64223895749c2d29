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
INFERRING = {
    "fsdp, infer": "engine: fsdp, task: infer",
    "accelerate, infer": "engine: accelerate, task: infer",
}
COMMANDS = (
    (*OWN, "fsdp, infer"),
    (*ACCELERATE, "accelerate, infer"),
    tuple(ZERO)[:3],
    tuple(ZERO)[3:],
)
"""Cases that run in one command, each of which keeps well within a test's time."""
BUSY = {"steady_state", "fence_waits", "windows_steady"}
"""What a machine that others use may fail."""


def absent(case: str) -> bool:
    """Say whether the case's engine is a package that is not here."""
    of_ours = (*OWN, "fsdp, infer")
    return case not in of_ours and importlib.util.find_spec(package(case)) is None


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


class Records:
    """The record of each case; those of a command are made when the first of them is asked for."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._found: dict[str, Record] = {}

    def __getitem__(self, case: str) -> Record:
        if case not in self._found:
            (cases,) = [command for command in COMMANDS if case in command]
            self._found |= ran(self._folders.mktemp("engines"), cases)
        return self._found[case]


def ran(folder: Path, cases: tuple[str, ...]) -> dict[str, Record]:
    """Run cases by one command over two processes."""
    bench, words = Bench(folder), CASES | INFERRING
    entries = [f"  - case: {name!r}\n    set: {{ {words[name]} }}" for name in cases]
    scenario = bench.scenario("engines", "cases:\n" + "\n".join(entries) + "\n", HEAD)
    finished = bench.start(
        *("run", scenario, "--backend", "cpu", "--processes", "2", "--format", "json")
    ).wait(timeout_s=800)
    assert finished.code == 0, finished.stderr
    assert [row["case"] for row in finished.rows] == list(cases)
    assert bench.processes() == []
    return {record.requested.case: record for record in bench.records()}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return Records(tmp_path_factory)


@pytest.mark.parametrize("case", CASES)
def test_an_engine_trains_over_two_processes_and_passes_its_guards(
    records: Records, case: str
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
    assert launch.diagnostics is not None
    assert launch.straggler is not None
    shared = case in ZERO and case != "zero 0"
    assert len(launch.diagnostics.alone_s) == (0 if shared else 2)
    assert (launch.diagnostics.communication_share is None) == shared
    assert (launch.straggler.source == "windows") == shared


@pytest.mark.parametrize("case", CASES)
def test_its_loss_on_one_batch_is_that_of_one_process_in_fp32(records: Records, case: str) -> None:
    if absent(case):
        pytest.skip("its package is not installed")
    health, reference = records[case].health, records["ddp"].health
    assert health is not None
    assert reference is not None
    assert health.learns
    assert health.loss_gap == pytest.approx(0.0, abs=1e-4)
    assert health.gradient_norm == pytest.approx(reference.gradient_norm, rel=1e-4)


@pytest.mark.parametrize("case", INFERRING)
def test_an_engine_infers_over_two_processes_as_it_was_asked_to(
    records: Records, case: str
) -> None:
    if absent(case):
        pytest.skip("its package is not installed")
    record = records[case]
    assert record.outcome is Outcome.OK, record.reason
    (launch,) = record.launches
    assert failed(launch) == set()
    assert passed(launch, "collectives_real") == "world 2 of 2, all-reduce of rank + 1 gives 3"
    passed(launch, "as_asked")
    told = ("task", "engine", "processes")
    assert [launch.actual[name] for name in told] == ["infer", case.removesuffix(", infer"), 2]


@pytest.mark.parametrize("case", [name for name in CASES if "host" in name])
def test_a_row_that_offloads_says_that_a_cpu_saves_nothing_by_it(
    records: Records, case: str
) -> None:
    if absent(case):
        pytest.skip("its package is not installed")
    (launch,) = records[case].launches
    (check,) = [check for check in launch.audit if check.name == "offload_saves"]
    assert (check.result, str(check.weight)) == (CheckResult.FAIL, "remark")
    assert "the device's memory is the host's" in check.evidence


def test_the_configuration_of_deepspeed_is_in_the_record(records: Records) -> None:
    if absent("zero 2, optimizer on the host"):
        pytest.skip("its package is not installed")
    (launch,) = records["zero 2, optimizer on the host"].launches
    told: Any = launch.actual["deepspeed_config"]
    assert told["gradient_clipping"] == 0.0
    assert told["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert told["train_batch_size"] == 16


@pytest.mark.parametrize("case", ["fsdp", "zero 3, all on the host"])
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


@pytest.mark.skipif(absent("accelerate"), reason="its package is not installed")
def test_a_file_of_accelerates_own_under_torchrun_and_after(tmp_path: Path) -> None:
    """Then its record is repeated with the file that it names, or not at all."""
    bench = Bench(tmp_path)
    config = bench.cwd / "accelerate.yaml"
    says = {"distributed_type": "MULTI_CPU", "mixed_precision": "bf16", "num_processes": 2}
    lines = [*(f"{key}: {value}" for key, value in says.items()), "machine_rank: 0", "tpu_env: []"]
    config.write_text("\n".join(lines), encoding="utf-8")
    entry = "engine: accelerate, precision: amp-bf16"
    named = f"accelerate: {{ config: {config} }}"
    scenario = bench.scenario(
        "own", f"cases:\n  - case: it\n    set: {{ {entry}, {named} }}\n", HEAD
    )
    finished = bench.run(scenario, backend="cpu", command=TORCHRUN)
    assert finished.code == 0, finished.stderr
    (record,) = bench.records()
    (launch,) = record.launches
    assert failed(launch) == set()
    for name in ("ranks_agree", "as_asked"):
        passed(launch, name)
    assert launch.actual["accelerate_config"] == says
    assert record.requested.knobs.accelerate.config == "accelerate.yaml"
    assert list(record.contents) == ["accelerate.config"]
    (file,) = (file for file in bench.files() if file.endswith(".json"))
    again = bench("run", f"results/{file}", "--dry-run")
    assert again.code == 0, again.stderr
    config.write_text("distributed_type: FSDP", encoding="utf-8")
    changed = bench("run", f"results/{file}")
    assert changed.code == 2
    assert "accelerate.yaml: the file says something else than when the record" in changed.stderr
    refused = bench("run", scenario, "--backend", "cpu", "--processes", "2")
    assert refused.code == 2
    assert "distributed_type=FSDP is not driven; set engine=fsdp" in refused.stderr
    told = {"ACCELERATE_USE_FSDP": "true"}
    config.write_text("\n".join(lines), encoding="utf-8")
    (row,) = bench.run(scenario, "--processes", "2", backend="cpu", environment=told).rows
    assert row["outcome"] == "unsupported"
    assert row["reason"].startswith("ACCELERATE_USE_FSDP=true: the environment says it")
