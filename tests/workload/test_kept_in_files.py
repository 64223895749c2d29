"""What ZeRO keeps in files is looked for there, and in memory: whatever it says of itself."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.backends.base import Unsupported
from bench.workload.engines import kept_in_files
from bench.workload.engines.zero_actual import offload_param

pytestmark = pytest.mark.torch

LEAST = 64
"""Bytes that a part must have to be written to a file."""


class Status(Enum):
    AVAILABLE = 1
    NOT_AVAILABLE = 2


def part(number: int, numbers: int, *, away: bool = False) -> Any:
    """Return a weight of which this rank has so many float32, as DeepSpeed leaves it."""
    weight: Any = torch.empty(0)
    weight.ds_id = number
    weight.ds_tensor = torch.empty(1 if away else numbers)
    weight.ds_tensor.ds_numel = numbers
    weight.ds_tensor.status = Status.NOT_AVAILABLE if away else Status.AVAILABLE
    return weight


def with_weights(folder: Path, parts: list[Any]) -> Any:
    """Return stage 3's optimizer that keeps these weights, each away in a file of its size."""
    paths = {}
    for weight in parts:
        if weight.ds_tensor.status is Status.NOT_AVAILABLE:
            path = folder / f"{weight.ds_id}.swp"
            path.write_bytes(bytes(4 * weight.ds_tensor.ds_numel))
            paths[weight.ds_id] = str(path)
    buffers = torch.empty(10)
    swapper = SimpleNamespace(id_to_path=paths, min_aio_bytes=LEAST, buffers=buffers)
    for weight in parts:
        weight.nvme_swapper = swapper
    return SimpleNamespace(fp16_groups=[parts], params_in_nvme_and_cpu=True)


def test_weights_in_files_are_counted_and_small_ones_stay_in_memory(tmp_path: Path) -> None:
    zero = with_weights(tmp_path, [part(0, 16, away=True), part(1, 15)])
    kept = kept_in_files.weights(zero)
    assert (kept.file_bytes, kept.memory_bytes, kept.in_files) == (64, 60, True)
    assert kept_in_files.describe(zero) == {
        "zero.param_file_bytes": 64,
        "zero.param_memory_bytes": 60,
        "zero.param_buffer_bytes": 40,
    }
    kept_in_files.refuse_what_is_too_small(zero)


def test_a_large_weight_that_stays_in_memory_is_seen(tmp_path: Path) -> None:
    zero = with_weights(tmp_path, [part(0, 16, away=True), part(1, 16)])
    assert not kept_in_files.weights(zero).in_files


@pytest.mark.parametrize("plant", ["no file", "a short file", "a copy in memory"])
def test_a_weight_that_is_only_said_to_be_away_is_seen(tmp_path: Path, plant: str) -> None:
    parts = [part(0, 16, away=True), part(1, 16, away=True)]
    zero = with_weights(tmp_path, parts)
    assert kept_in_files.weights(zero).in_files
    if plant == "no file":
        (tmp_path / "1.swp").unlink()
    elif plant == "a short file":
        (tmp_path / "1.swp").write_bytes(bytes(8))
    else:
        parts[1].ds_tensor.data = torch.empty(16)
    kept = kept_in_files.weights(zero)
    assert (kept.file_bytes, kept.memory_bytes, kept.in_files) == (64, 64, False)


@pytest.mark.parametrize(("lies_on", "found"), [("cpu", "cpu"), ("meta", None)])
def test_weights_that_are_said_to_be_in_the_hosts_memory_are_looked_for_there(
    lies_on: str, found: str | None
) -> None:
    weight = part(0, 16)
    weight.ds_tensor = torch.empty(16, device=lies_on)
    zero = SimpleNamespace(fp16_groups=[[weight]], offload_param=True)
    assert offload_param(zero) == found
    zero.offload_param = False
    assert offload_param(zero) == "none"


def test_a_model_of_small_weights_is_refused(tmp_path: Path) -> None:
    zero = with_weights(tmp_path, [part(0, 2**18 - 1)])
    zero.fp16_groups[0][0].nvme_swapper.min_aio_bytes = 2**20
    with pytest.raises(Unsupported, match=r"^zero.offload_param=nvme: .*1 MiB.*no part of a w"):
        kept_in_files.refuse_what_is_too_small(zero)
    zero.params_in_nvme_and_cpu = False
    kept_in_files.refuse_what_is_too_small(zero)
    assert kept_in_files.describe(zero) == {}


def with_state(folder: Path) -> Any:
    """Return stage 3's optimizer that has updated one group, and put what it keeps into files."""
    weight: Any = torch.nn.Parameter(torch.empty(0))
    weight.ds_id = "0_3"
    state = {"step": torch.zeros(()), "exp_avg": torch.empty(0), "exp_avg_sq": torch.empty(0)}
    contexts = []
    for name, tensor in {"weight": weight, **state}.items():
        if name != "step":
            path = folder / f"{name}.swp"
            path.write_bytes(bytes(4 * 16))
            contexts.append(SimpleNamespace(compute_tensor=tensor, swap_path=str(path)))
    info = SimpleNamespace(tensors=contexts, numel=lambda: 16)
    swapper = SimpleNamespace(
        swap_params_info={"0_3": info},
        min_aio_bytes=LEAST,
        swap_element_size=4,
        swap_buffer_manager=SimpleNamespace(all_buffers=[torch.empty(16)] * 4),
    )
    return SimpleNamespace(
        optimizer=SimpleNamespace(state={weight: state}),
        optimizer_swapper=swapper,
        fp16_partitioned_groups_flat_numel=[16],
        fp32_partitioned_groups_flat=[weight],
        swap_optimizer=True,
    )


def test_what_the_optimizer_keeps_is_in_files_but_for_its_count_of_steps(tmp_path: Path) -> None:
    zero = with_state(tmp_path)
    assert kept_in_files.optimizer_state(zero).in_files
    assert kept_in_files.describe(zero) == {
        "zero.optimizer_file_bytes": 3 * 64,
        "zero.optimizer_memory_bytes": 4,
        "zero.optimizer_buffer_bytes": 4 * 64,
    }
    kept_in_files.refuse_what_is_too_small(zero)


def test_state_of_the_optimizer_that_is_in_memory_is_seen(tmp_path: Path) -> None:
    zero = with_state(tmp_path)
    state = zero.optimizer.state[zero.fp32_partitioned_groups_flat[0]]
    state["exp_avg"].data = torch.empty(16)
    kept = kept_in_files.optimizer_state(zero)
    assert (kept.file_bytes, kept.memory_bytes, kept.in_files) == (128, 68, False)
    state["exp_avg"].data = torch.empty(0)
    (tmp_path / "exp_avg_sq.swp").unlink()
    assert not kept_in_files.optimizer_state(zero).in_files


def test_an_optimizer_of_small_groups_is_refused(tmp_path: Path) -> None:
    zero = with_state(tmp_path)
    zero.fp16_partitioned_groups_flat_numel = [15]
    with pytest.raises(Unsupported, match=r"^zero.offload_optimizer=nvme: .*no group of weights"):
        kept_in_files.refuse_what_is_too_small(zero)
