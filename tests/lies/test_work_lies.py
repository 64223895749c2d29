"""Lies about the work: less of it, other work, or somebody else's settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from bench.backends.base import Device, World
from bench.backends.cpu import CpuDevice
from bench.scenarios.schema import Knobs
from bench.worker.errors import CollectivesNotRealError
from bench.worker.peers import prove_collectives
from bench.workload import data, engines
from bench.workload.data import Batch
from bench.workload.engines import DdpEngine
from tests.audit.honest import FAIL, HONEST, PASS, found
from tests.lies.real_runs import caught, launched, words

pytestmark = pytest.mark.torch


def replaced_batches(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Put `change` between the loader and the step."""
    feed = CpuDevice.feed

    def changed(device: CpuDevice, batches: Any, knobs: Knobs) -> Iterator[Batch]:
        return iter(change(feed(device, batches, knobs)))

    monkeypatch.setattr(CpuDevice, "feed", changed)


def test_a_silently_smaller_batch_is_caught_by_batch_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halved(batches: Iterator[Batch]) -> Iterator[Batch]:
        for images, labels in batches:
            yield images[:4], labels[:4]

    replaced_batches(monkeypatch, halved)
    assert "batch_as_asked" in caught(launched(tmp_path))


def test_inputs_of_all_zeros_are_caught_by_batches_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blank(batches: Iterator[Batch]) -> Iterator[Batch]:
        for images, labels in batches:
            yield torch.zeros_like(images), labels

    replaced_batches(monkeypatch, blank)
    assert "batches_as_asked" in caught(launched(tmp_path))


def test_one_batch_used_again_and_again_is_caught_by_batches_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device loader would send it once and call it many."""

    def repeated(batches: Iterator[Batch]) -> Iterator[Batch]:
        batch = next(batches)
        while True:
            yield batch

    replaced_batches(monkeypatch, repeated)
    assert "batches_as_asked" in caught(launched(tmp_path, data={"source": "cached"}))


def test_cached_batches_sold_as_loaded_are_caught_by_batches_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached(knobs: Knobs, image_size: int, seed: int) -> Any:
        pool = data.draw_pool(knobs, image_size, seed)
        return data.ResidentBatches(pool)

    monkeypatch.setattr(data, "loader", cached)
    assert "batches_as_asked" in caught(launched(tmp_path, data={"source": "random"}))


def test_an_autocast_for_another_device_is_caught_by_precision_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`torch.autocast` of the wrong device type changes nothing, and raises nothing."""
    monkeypatch.setattr(
        CpuDevice, "autocast", lambda _device, _knobs: torch.autocast("xla", dtype=torch.bfloat16)
    )
    assert {"precision_ran", "as_asked"} <= caught(launched(tmp_path, precision="amp-bf16"))


def test_fp32_in_place_of_bf16_is_caught_by_precision_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Device.place

    def unchanged(device: Device, module: torch.nn.Module, knobs: Knobs) -> torch.nn.Module:
        return place(device, module, knobs.model_copy(update={"precision": "fp32"}))

    monkeypatch.setattr(Device, "place", unchanged)
    assert {"precision_ran", "as_asked"} <= caught(launched(tmp_path, precision="bf16"))


class Tf32(TorchDispatchMode):
    """A device that multiplies float32 matrices with ten bits of mantissa, as a GPU may."""

    PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket in self.PRODUCTS:
            args = [self._rounded(arg) for arg in args]
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _rounded(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        bits = value.contiguous().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def test_a_product_of_lower_precision_than_its_operands_is_caught_by_precision_ran(
    tmp_path: Path,
) -> None:
    """The graph says float32, and the device computes something else: only computing tells."""
    with Tf32():
        launch = launched(tmp_path)
    assert "precision_ran" in caught(launch)
    assert "tf32" in words(launch, "precision_ran")


def test_autocast_that_acts_is_not_caught(tmp_path: Path) -> None:
    assert caught(launched(tmp_path, precision="amp-bf16")) == set()


@pytest.mark.parametrize("precision", ["amp-bf16", "amp-fp16"])
def test_a_precision_that_the_device_leaves_out_is_caught_by_as_asked(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As accelerate does with fp16 on a CPU, without a warning."""
    monkeypatch.setattr(CpuDevice, "autocast", lambda _device, _knobs: contextlib.nullcontext())
    launch = launched(tmp_path, precision=precision)
    assert {"as_asked", "precision_ran"} <= caught(launch)
    assert words(launch, "as_asked") == f"precision: asked {precision}, ran fp32"


def test_fp16_that_ran_as_such_is_not_caught(tmp_path: Path) -> None:
    """(So few updates are not judged: the scaler still looks for its scale among them.)"""
    assert caught(launched(tmp_path, precision="amp-fp16")) <= {"updates_counted"}


def test_a_compiler_that_returned_eager_is_caught_by_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "compile", lambda _device, module, _knobs: module)
    launch = launched(tmp_path, compile="inductor")
    assert "as_asked" in caught(launch)
    assert "compile: asked inductor, ran none" in words(launch, "as_asked")


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_an_engine_that_became_another_is_caught_by_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As DeepSpeed and FSDP become DDP when accelerate is asked for them on a CPU."""
    monkeypatch.setattr(engines, "make", lambda *_: DdpEngine())
    launch = launched(tmp_path)
    assert caught(launch) == {"as_asked"}
    assert words(launch, "as_asked") == "engine: asked plain, ran ddp"


def test_operators_on_the_host_are_caught_by_no_fallbacks() -> None:
    check = found("no_fallbacks", fallbacks={"aten::nonzero": 12})
    assert check.result is FAIL


def test_a_collective_that_is_the_identity_ends_the_launch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch_xla's group is on a CPU: world 2, and every rank keeps its own sum."""
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: tensor)
    device = CpuDevice(threads=torch.get_num_threads())
    with contextlib.closing(device), pytest.raises(CollectivesNotRealError, match="gives 1"):
        prove_collectives(World(rank=0, size=2), device)


def test_ranks_that_nobody_counted_are_caught_by_collectives_real() -> None:
    two = HONEST.knobs.model_copy(update={"processes": 2, "engine": "ddp"})
    assert found("collectives_real", knobs=two, collectives=None).result is FAIL
    assert found("collectives_real", knobs=two, collectives="world 2 of 2").result is PASS
