"""Engines: who drives the step, read back from what runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from bench.backends.base import World
from bench.workload import engines
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


def test_plain_leaves_the_module_as_it_is() -> None:
    engine, module = engines.make(knobs(), World()), Flat()
    assert engine.prepare(module) is module
    assert engine.describe_actual() == {"engine": "plain", "processes": 1}


def test_plain_refuses_more_than_one_process() -> None:
    with pytest.raises(ValueError, match="engine=plain in a world of 2"):
        engines.make(knobs(), World(rank=0, size=2))


@pytest.mark.usefixtures("world_of_one")
def test_ddp_wraps_the_module_and_reads_its_world_back() -> None:
    engine = engines.make(knobs(engine="ddp"), World())
    wrapped = engine.prepare(Flat())
    assert isinstance(wrapped, torch.nn.parallel.DistributedDataParallel)
    assert engine.describe_actual() == {"engine": "ddp", "processes": 1}


@pytest.mark.usefixtures("world_of_one")
def test_ddp_is_told_what_the_device_needs_it_to_be_told() -> None:
    wrapped = [
        engines.make(knobs(engine="ddp"), World(), options).prepare(Flat())
        for options in (None, {"gradient_as_bucket_view": True})
    ]
    assert [module.gradient_as_bucket_view for module in wrapped] == [False, True]


@pytest.mark.usefixtures("world_of_one")
def test_ddp_over_a_frozen_module_wraps_nothing_and_says_plain() -> None:
    engine = engines.make(knobs(engine="ddp"), World())
    module = Flat().requires_grad_(False)
    assert engine.prepare(module) is module
    assert engine.describe_actual()["engine"] == "plain"


@pytest.mark.usefixtures("world_of_one")
def test_ddp_exchanges_gradients_only_with_the_last_micro_batch() -> None:
    engine = engines.make(knobs(engine="ddp"), World())
    wrapped = engine.prepare(Flat())
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
