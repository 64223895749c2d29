"""Batches on their way to a GPU, in the order in which the copies and waits are issued."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("torch")

import torch

from bench.backends.cuda_feed import copied_ahead
from tests.backends.fake_cuda import FakeCuda, FakeTensor

pytestmark = pytest.mark.torch

DEVICE = torch.device("cpu")


def batches(cuda: FakeCuda, count: int) -> Iterator[list[FakeTensor]]:
    for number in range(count):
        cuda.log.append(f"draw {number}")
        yield [FakeTensor(f"images {number}", cuda), FakeTensor(f"labels {number}", cuda)]


def test_one_batch_is_copied_ahead_on_a_stream_of_its_own() -> None:
    cuda = FakeCuda()
    feed = copied_ahead(batches(cuda, 3), DEVICE, cuda)
    next(feed)
    assert cuda.log == [
        "draw 0",
        "copy images 0 on side",
        "copy labels 0 on side",
        "event 1 on side",
        "draw 1",
        "copy images 1 on side",
        "copy labels 1 on side",
        "event 2 on side",
        "default waits for event 1",
        "images 0 is used on default",
        "labels 0 is used on default",
    ]


def test_the_step_waits_for_its_own_batch_and_not_for_the_next() -> None:
    cuda = FakeCuda()
    for number, _ in enumerate(copied_ahead(batches(cuda, 4), DEVICE, cuda)):
        waited = [line for line in cuda.log if "waits" in line]
        assert waited[-1] == f"default waits for event {number + 1}"


def test_every_batch_arrives_once_and_in_order() -> None:
    cuda = FakeCuda()
    found = [images.name for images, _labels in copied_ahead(batches(cuda, 5), DEVICE, cuda)]
    assert found == [f"images {number}" for number in range(5)]


@pytest.mark.parametrize("count", [0, 1])
def test_a_short_loader_ends_without_a_stray_batch(count: int) -> None:
    cuda = FakeCuda()
    assert len(list(copied_ahead(batches(cuda, count), DEVICE, cuda))) == count


def test_an_error_in_the_host_loader_reaches_the_step() -> None:
    cuda = FakeCuda()

    def broken() -> Iterator[list[FakeTensor]]:
        yield [FakeTensor("images", cuda)]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(copied_ahead(broken(), DEVICE, cuda))


def test_no_copy_is_issued_on_the_stream_that_computes() -> None:
    cuda = FakeCuda()
    list(copied_ahead(batches(cuda, 3), DEVICE, cuda))
    assert not [line for line in cuda.log if line.startswith("copy") and "default" in line]
    assert cuda.current is cuda.default
