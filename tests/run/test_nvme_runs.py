"""ZeRO's third stage with weights and optimizer state in files, over two processes, for real.

DeepSpeed compiles what writes the files when it is first used, which takes minutes. Where it cannot
be compiled the case is refused, and these tests are skipped with the reason.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from bench.backends import async_io
from bench.results.record import Launch, Outcome, Record
from tests.run.driver import Bench
from tests.run.test_command import TORCHRUN
from tests.run.test_engine_runs import failed, passed
from tests.worker.engine_ranks import alone
from tests.worker.two_ranks import answers

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(1500)]

HEAD = """\
schema: 1
name: {name}
model: vit_tiny_patch16_224
model_kwargs: {{ patch_size: 8, embed_dim: 256, depth: 3, num_heads: 2, mlp_ratio: 8 }}
image_size: 32
classes: 10
batch_size: 8
threads: 1
data: {{ source: cached }}
measure: {{ launches: 1, budget_s: 0.6, windows: 3, warmup_s: 0.2, health_steps: 5 }}
"""
WIDE = 256 * 2048
"""Numbers in each of the six largest weights, of which a rank has just 1 MiB."""
OPTIMIZER, ALL, SMALL = "optimizer in files", "all in files", "too small for files"


def cases(drive: Path, config: Path) -> str:
    """Return the cases, of which one names a drive and has smaller buffers than DeepSpeed's."""
    zero = "engine: deepspeed, zero: { stage: 3, "
    settings = {
        OPTIMIZER: f"{zero} offload_optimizer: nvme }}",
        ALL: f"{zero} offload_optimizer: nvme, offload_param: nvme, config: {config}, "
        f"nvme_path: {drive} }}",
        SMALL: f"{zero} offload_param: nvme, config: {config} }}, model_kwargs.mlp_ratio: 4",
    }
    entries = [f"  - case: {name!r}\n    set: {{ {words} }}" for name, words in settings.items()]
    return "cases:\n" + "\n".join(entries) + "\n"


@pytest.fixture(scope="module", autouse=True)
def _can_be_built() -> None:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    if lacks := async_io.missing("cpu") or async_io.lacks_libaio("cpu"):
        pytest.skip(lacks)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drive")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "zero.json"
    path.write_text(
        json.dumps({"zero_optimization": {"offload_param": {"device": "nvme", "buffer_size": 1e6}}})
    )
    return path


@pytest.fixture(scope="module")
def records(
    tmp_path_factory: pytest.TempPathFactory, drive: Path, config: Path
) -> dict[str, Record]:
    bench = Bench(tmp_path_factory.mktemp("nvme"))
    scenario = bench.scenario("nvme", cases(drive, config), HEAD)
    finished = bench.start(
        *("run", scenario, "--backend", "cpu", "--processes", "2", "--format", "json")
    ).wait(timeout_s=1400)
    assert finished.code == 0, finished.stderr
    assert bench.processes() == []
    return {record.requested.case: record for record in bench.records()}


def launch_of(record: Record) -> Launch:
    assert record.outcome is Outcome.OK, record.reason
    (launch,) = record.launches
    return launch


@pytest.mark.parametrize("case", [OPTIMIZER, ALL])
def test_a_case_in_files_trains_over_two_processes_and_passes_its_guards(
    records: dict[str, Record], case: str
) -> None:
    launch = launch_of(records[case])
    assert failed(launch) == set()
    assert "zero.offload_optimizer" in passed(launch, "as_asked")
    assert "weights are equal over the ranks" in passed(launch, "ranks_agree")
    health = records[case].health
    assert health is not None
    assert health.learns
    assert health.loss_gap == pytest.approx(0.0, abs=1e-4)


def test_the_record_has_what_is_in_files_and_what_is_in_memory(records: dict[str, Record]) -> None:
    found = launch_of(records[ALL]).actual
    parameters = found["parameters"]
    assert isinstance(parameters, int)
    # Half of the weights, and of both moments of them; the rest of a group is padding.
    state = found["zero.optimizer_file_bytes"]
    assert isinstance(state, int)
    assert state == pytest.approx(3 * 4 * parameters / 2, rel=0.001)
    assert found["zero.optimizer_memory_bytes"] == 4  # the count of steps
    assert found["zero.param_file_bytes"] == 6 * WIDE // 2 * 4
    small = found["zero.param_memory_bytes"]
    assert isinstance(small, int)
    assert small == pytest.approx(4 * (parameters - 6 * WIDE) / 2, rel=0.01)
    assert found["zero.param_buffer_bytes"] == pytest.approx(5 * 4e6, rel=0.01)
    told = launch_of(records[ALL]).actual["deepspeed_config"]
    assert isinstance(told, dict)
    zero = told["zero_optimization"]
    assert isinstance(zero, dict)
    section = zero["offload_param"]
    assert isinstance(section, dict)
    assert (section["device"], section["max_in_cpu"], section["buffer_size"]) == ("nvme", 0, 1e6)
    assert "nvme_path" not in section


def test_nothing_is_left_on_the_drive(records: dict[str, Record], drive: Path) -> None:
    assert records[ALL].outcome is Outcome.OK
    assert list(drive.iterdir()) == []


def test_a_model_whose_weights_are_too_small_for_files_is_refused(
    records: dict[str, Record],
) -> None:
    """DeepSpeed would take it, and keep all of them in memory."""
    record = records[SMALL]
    assert record.outcome is Outcome.UNSUPPORTED
    assert "zero.offload_param=nvme: DeepSpeed writes to files what has 1 MiB or more" in str(
        record.reason
    )


def test_two_ranks_train_from_files_as_one_process_does_from_memory(
    tmp_path: Path, config: Path
) -> None:
    shape = {"patch_size": 8, "embed_dim": 256, "depth": 3, "num_heads": 2, "mlp_ratio": 8}
    zero = {"stage": 3, "offload_optimizer": "nvme", "offload_param": "nvme", "config": str(config)}
    settings = {"model_kwargs": shape, "engine": "deepspeed", "zero": zero}
    ranks = answers("tests.worker.engine_ranks:together", str(tmp_path), [settings])
    (first,), (second,) = ranks
    single = alone(str(tmp_path), {"model_kwargs": shape})
    losses = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert losses == pytest.approx(single["losses"], abs=2e-5)
    assert first["weights"] == second["weights"]
    assert first["weights"] == pytest.approx(single["weights"], abs=2e-4)
    for rank in (first, second):
        assert (rank["moved"], rank["untrained"], rank["agree"]) == (1.0, [], True)
        assert rank["heard"] > 0
        assert {name: rank["actual"][name] for name in rank["asked"]} == rank["asked"]


def test_the_same_under_torchrun(tmp_path: Path, drive: Path, config: Path) -> None:
    bench = Bench(tmp_path)
    scenario = bench.scenario("nvme", cases(drive, config), HEAD)
    precision = ("--set", "precision=amp-bf16")
    finished = bench.run(scenario, "--case", ALL, *precision, backend="cpu", command=TORCHRUN)
    assert finished.code == 0, finished.stderr
    (record,) = bench.records()
    assert failed(launch_of(record)) == set()
    passed(launch_of(record), "as_asked")
    assert list(drive.iterdir()) == []
