"""The working half on real torch_xla: the fence, the counters, types and threads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.backends import xla
from bench.scenarios.schema import Knobs
from tests.backends import xla_child

pytestmark = [
    pytest.mark.xla,
    pytest.mark.skipif(not xla_child.INSTALLED, reason="torch_xla is not installed"),
]


def test_the_probe_finds_the_processor_and_its_child_ends_by_itself(tmp_path: Path) -> None:
    answer = tmp_path / "probe.json"
    command = [sys.executable, "-m", "bench.backends.probe", "xla", str(answer)]
    subprocess.run(command, cwd=xla_child.ROOT, check=True, timeout=120, capture_output=True)
    found = json.loads(answer.read_text())
    assert found["available"]
    assert found["flavour"] == "CPU"
    assert found["facts"] == {"pjrt": "CPU"}
    assert found["device_model"].endswith("(PJRT CPU)")


def test_the_fence_waits_where_sync_leaves_the_work_behind() -> None:
    found = xla_child.run("xla_experiments.fence")
    assert found["after_fence_s"] < 0.05 * found["fence_s"]
    # The other way of waiting returns at once, and the read pays for all the work.
    assert found["after_sync_s"] > 0.7 * found["fence_s"]
    assert found["sync_s"] < 0.3 * found["fence_s"]


@pytest.fixture(scope="module")
def counted() -> dict[str, Any]:
    # The flag is for another device and changes nothing here; its value is a private path.
    flags = "--xla_gpu_cuda_data_dir=/srv/private/cuda"
    return xla_child.run("xla_experiments.counters", XLA_FLAGS=flags)


def test_counting_starts_when_the_device_is_opened(counted: dict[str, Any]) -> None:
    assert counted["at_start"] == {
        "compiles": 0,
        "compile_s": 0.0,
        "executions": 0,
        "fallbacks": {},
        "graph_breaks": None,
        "recompiles": None,
        "graphs_skipped": None,
    }


def test_compilations_rise_with_a_new_shape_only(counted: dict[str, Any]) -> None:
    assert counted["by_shape"] == [[1, 1], [1, 2], [2, 3], [2, 4], [2, 5]]
    assert counted["compile_s"] > 0


def test_a_fence_with_nothing_issued_executes_nothing(counted: dict[str, Any]) -> None:
    assert counted["idle_fence_executions"] == 0


def test_an_operator_that_runs_on_the_host_is_seen_and_a_read_is_not(
    counted: dict[str, Any],
) -> None:
    assert counted["after_item"] == {}
    assert counted["after_unique"] == {"aten::_unique2": 1}


def test_a_peak_is_unknown_before_it_was_begun_anew(counted: dict[str, Any]) -> None:
    assert counted["peak_memory_bytes"] is None


def test_the_device_says_what_it_is(counted: dict[str, Any]) -> None:
    assert counted["description"]["pjrt"] == "CPU"
    assert counted["description"]["XLA_USE_BF16"] == "0"
    assert counted["proof"] == {"float32_stored_as": "float32"}


def test_what_the_device_says_of_itself_goes_into_records_and_names_no_path(
    counted: dict[str, Any],
) -> None:
    assert "/srv" not in json.dumps(counted["description"])


def test_outputs_are_computed_only_when_they_are_kept() -> None:
    found = xla_child.run("xla_experiments.kept_outputs")
    assert found["executions_of_dropped"] == 0
    assert found["dots_of_kept"] == 3
    assert found["executions_of_kept"] == 1
    assert found["held_after_fence"] == 0


def test_autocast_multiplies_in_bfloat16_and_plain_float32_does_not() -> None:
    found = xla_child.run("xla_experiments.precision")
    assert found["fp32 product"] == ["torch.float32", "f32"]
    assert found["amp-bf16 product"] == ["torch.bfloat16", "bf16"]
    assert found["fp32"] == {"float32_stored_as": "float32"}
    assert found["bf16-env"].startswith(
        "precision=bf16-env: the device stores a float32 as float32"
    )


def test_the_environment_variable_is_proven_to_act_and_noticed_when_not_asked_for() -> None:
    found = xla_child.run("xla_experiments.precision", Knobs(precision="bf16-env"))
    assert found["bf16-env"] == {"float32_stored_as": "bfloat16", "precision": "bf16-env"}
    assert found["fp32"].startswith("precision=fp32: the device stores a float32 as bfloat16")
    # torch still calls it float32: only the graph and the probe tell.
    assert found["fp32 product"] == ["torch.float32", "bf16"]


def test_one_thread_is_one_thread() -> None:
    found = xla_child.run("xla_experiments.threads", Knobs(threads=1))
    assert found["cpu_per_wall"] < 1.1


def test_openxla_executes_before_any_cut_so_no_count_is_promised() -> None:
    found = xla_child.run("xla_experiments.openxla", Knobs(task="infer", compile="openxla"))
    assert found["executions_without_a_cut"] >= 1
    assert found["executions_reported"] is None
    assert found["compiles"] >= 1
    assert found["compiles_when_repeated"] == 0


def test_checkpointing_recomputes_and_gives_the_same_gradients() -> None:
    found = xla_child.run("xla_training.checkpointing", Knobs(activation_checkpointing=True))
    assert "xla" in found["torch_alone"]
    assert found["gradient_size"] > 1e-3
    assert found["gradient_error"] < 1e-4 * found["gradient_size"]
    # Six products more on top of twelve: 1.5, were nothing else to do.
    assert 1.25 < found["recomputation_ratio"] < 1.9
    assert found["first_segment_gradient"] == [10.0] * 9
    assert "context_fn" in found["context_fn"]
    assert found["restored"]


def test_without_the_planned_flag_the_recomputation_is_merged_away() -> None:
    found = xla_child.run("xla_training.checkpointing", Knobs())
    assert found["recomputation_ratio"] < 1.15


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("loader_prefetch_size", xla.LOADER_PREFETCH),
        ("device_prefetch_size", xla.DEVICE_PREFETCH),
        ("host_to_device_transfer_threads", xla.TRANSFER_THREADS),
    ],
)
def test_the_loaders_defaults_are_those_that_prefetched_counts(argument: str, value: int) -> None:
    code = (
        "import inspect, os; from torch_xla.distributed.parallel_loader import ParallelLoader; "
        f"print(inspect.signature(ParallelLoader).parameters['{argument}'].default, flush=True); "
        "os._exit(0)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert child.stdout.split()[-1] == str(value)
