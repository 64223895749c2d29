"""Devices of one process that share a batch: what proves them, without any such device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch

from bench.backends.base import Counters, World
from bench.backends.mesh import MeshDevice, Share
from bench.scenarios.schema import Knobs
from bench.worker.errors import CollectivesNotRealError
from bench.worker.peers import prove_mesh
from bench.workload import engines

pytestmark = pytest.mark.torch

TWO = Knobs(engine="spmd")
SPLIT = [Share(16, (8, 8)), Share(16, (8, 8))]


class Pretended(MeshDevice):
    def __init__(
        self,
        reduced: Iterable[float] = (3.0, 3.0),
        shares: Iterable[Share] = SPLIT,
        second: float = 1.0,
    ) -> None:
        self.torch_device = torch.device("cpu")
        self._reduced, self._shares, self._second = list(reduced), list(shares), second

    def fence(self) -> None:
        raise NotImplementedError

    def feed(self, batches: Iterable[Any], knobs: Knobs) -> Iterator[Any]:
        raise NotImplementedError

    def counters(self) -> Counters:
        return Counters()

    def reduced(self) -> list[float]:
        return self._reduced

    def shares(self) -> list[Share]:
        return self._shares

    def copies(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [tensor, tensor * self._second]


def actual(device: MeshDevice) -> dict[str, Any]:
    engine = engines.make(TWO, World(), device)
    asked = engine.asked(TWO) | {"batch_size": TWO.batch_size}
    found = engine.describe_actual()
    return {name: found.get(name) for name in asked if found.get(name) != asked[name]}


def test_a_sum_over_all_devices_on_each_is_the_proof() -> None:
    evidence = prove_mesh(Pretended(), 2)
    assert evidence == "2 of 2 devices, all-reduce of index + 1 gives 3, 3"


@pytest.mark.parametrize("reduced", [(1.0, 2.0), (3.0,), (3.0, 1.0), ()])
def test_an_all_reduce_that_returns_its_input_or_misses_a_device_ends_the_launch(
    reduced: tuple[float, ...],
) -> None:
    with pytest.raises(CollectivesNotRealError, match=r"of 2 devices.*, expected 3 on each"):
        prove_mesh(Pretended(reduced), 2)


def test_a_batch_in_parts_is_as_asked() -> None:
    assert actual(Pretended()) == {}


def test_a_batch_that_lies_whole_on_every_device_is_not_as_asked() -> None:
    whole = [Share(16, (16, 16)), Share(16, (16, 16))]
    found = actual(Pretended(shares=whole))
    assert found == {"spmd.inputs": "replicated", "batch_size": 16}


def test_labels_that_lie_whole_on_every_device_are_not_as_asked() -> None:
    found = actual(Pretended(shares=[SPLIT[0], Share(16, (16, 16))]))
    assert found == {"spmd.inputs": "replicated", "batch_size": None}


def test_a_batch_on_another_number_of_devices_is_not_as_asked() -> None:
    thirds = [Share(24, (8, 8, 8)), Share(24, (8, 8, 8))]
    assert actual(Pretended(shares=thirds)) == {"spmd.devices": 3}


def test_what_was_never_fed_is_not_as_asked() -> None:
    assert actual(Pretended(shares=[]))["spmd.devices"] is None


@pytest.mark.parametrize(("second", "agree"), [(1.0, True), (1.0 + 1e-6, False)])
def test_weights_are_compared_over_the_devices_to_the_last_bit(second: float, agree: bool) -> None:
    engine = engines.make(TWO, World(), Pretended(second=second))
    assert engine.copies_agree(torch.nn.Linear(3, 3)) is agree
