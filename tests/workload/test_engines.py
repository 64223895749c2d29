"""Engines: who drives the step, read back from what runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from bench.backends.base import Unsupported, World
from bench.backends.cpu import CpuDevice
from bench.workload import engines, optimizers
from bench.workload.engines import Engine, sharded
from bench.workload.engines.fsdp import repeated_blocks
from tests.workload.build import Flat, batch, knobs

pytestmark = pytest.mark.torch


@pytest.fixture
def world_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if Path("/sys/class/net/lo").exists():
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def made(**settings: Any) -> Engine:
    return engines.make(knobs(**settings), World(), CpuDevice(1))


def wrapped_by(engine: Engine, module: torch.nn.Module) -> torch.nn.Module:
    """Return what the step would call."""
    return engine.prepare(module, None)[0]


def test_plain_leaves_the_module_as_it_is() -> None:
    engine, module = made(), Flat()
    assert wrapped_by(engine, module) is module
    assert engine.describe_actual() == {"engine": "plain", "processes": 1}


def test_plain_refuses_more_than_one_process() -> None:
    with pytest.raises(ValueError, match="engine=plain in a world of 2"):
        engines.make(knobs(), World(rank=0, size=2), CpuDevice(1))


@pytest.mark.usefixtures("world_of_one")
def test_ddp_wraps_the_module_and_reads_its_world_back() -> None:
    engine = made(engine="ddp")
    wrapped = wrapped_by(engine, Flat())
    assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
    assert engine.describe_actual() == {"engine": "ddp", "processes": 1}


@pytest.mark.usefixtures("world_of_one")
def test_ddp_is_told_what_the_device_needs_it_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, expected in (({}, False), ({"gradient_as_bucket_view": True}, True)):
        monkeypatch.setattr(CpuDevice, "ddp_options", options)
        wrapped = wrapped_by(made(engine="ddp"), Flat())
        assert wrapped.gradient_as_bucket_view is expected


@pytest.mark.usefixtures("world_of_one")
def test_ddp_over_a_frozen_module_wraps_nothing_and_says_plain() -> None:
    engine = made(engine="ddp")
    module = Flat().requires_grad_(False)
    assert wrapped_by(engine, module) is module
    assert engine.describe_actual()["engine"] == "plain"


@pytest.mark.usefixtures("world_of_one")
def test_ddp_exchanges_gradients_only_with_the_last_micro_batch() -> None:
    engine = made(engine="ddp")
    wrapped = wrapped_by(engine, Flat())
    exchanges = 0

    def count(_state, bucket):  # type: ignore[no-untyped-def]  # DDP compares the annotations
        nonlocal exchanges
        exchanges += 1
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
    wrapped.register_comm_hook(None, count)
    images, labels = batch()
    with engine.accumulate():
        torch.nn.functional.cross_entropy(wrapped(images), labels).backward()
    assert exchanges == 0
    torch.nn.functional.cross_entropy(wrapped(images), labels).backward()
    assert exchanges == 1


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))


class Stage(torch.nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(depth))
        self.norm = torch.nn.LayerNorm(4)


def test_the_innermost_lists_of_equal_blocks_are_the_units() -> None:
    """A list of plain layers is none, nor are blocks of several classes, nor is a single one."""
    stages = torch.nn.ModuleList([Stage(2), Stage(3)])
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), stages, torch.nn.ModuleList([Block()]))
    expected = [*stages[0].blocks, *stages[1].blocks]
    assert repeated_blocks(model) == expected
    assert repeated_blocks(Flat()) == []


@pytest.mark.usefixtures("world_of_one")
@pytest.mark.parametrize("keeps", [None, True, False])
@pytest.mark.parametrize("offload", ["none", "cpu"])
def test_fsdp_shards_every_parameter_and_reads_its_settings_back(
    keeps: bool | None, offload: str
) -> None:
    settings = {"reshard_after_forward": keeps, "offload": offload}
    wanted = knobs(engine="fsdp", fsdp=settings)
    engine, model = made(engine="fsdp", fsdp=settings), Stage(3)
    module, optimizer = engine.prepare(model, lambda p: optimizers.build(wanted, p))
    assert module is model
    assert optimizer is not None
    found = engine.describe_actual()
    assert {name: found[name] for name in engine.asked(wanted)} == engine.asked(wanted)
    assert (found["fsdp.units"], found["fsdp.placements"]) == (4, "S(0)")
    assert engine.count(module) == sum(p.numel() for p in Stage(3).parameters())
    first = next(module.parameters())
    assert torch.equal(engine.whole(first), engine.local(first))


@pytest.mark.usefixtures("world_of_one")
def test_a_model_that_nobody_has_sharded_is_no_fsdp() -> None:
    from bench.workload.engines import fsdp

    found = fsdp.describe(Stage(2), None)
    assert (found["engine"], found["fsdp.offload"]) == ("plain", None)


@pytest.mark.usefixtures("world_of_one")
def test_a_parameter_that_is_a_single_number_cannot_be_sharded() -> None:
    model = Flat()
    model.scale = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(Unsupported, match="a single number, as scale is"):
        made(engine="fsdp").prepare(model, None)


def test_an_ordinary_tensor_is_all_there_is_of_it() -> None:
    tensor = torch.randn(3, requires_grad=True)
    assert sharded.local(tensor) is tensor
    assert torch.equal(sharded.whole(tensor), tensor)
    assert not sharded.whole(tensor).requires_grad
    assert sharded.over_ranks([], "cpu") == []
