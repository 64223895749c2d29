"""Devices of one process that share its batch, on real torch_xla: do they train one model?"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from bench.scenarios.schema import Knobs
from tests.backends import xla_child
from tests.backends.xla_spmd import STEPS, WEIGHTS
from tests.small_vit import SMALL_VIT

pytestmark = [
    pytest.mark.xla,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not xla_child.INSTALLED, reason="torch_xla is not installed"),
]

PLAIN_SGD: dict[str, Any] = SMALL_VIT | {
    "data": {"source": "cached"},
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "momentum": 0.0,
}
"""Weights move by what the gradients are. Adam would divide those by their own size, and a rounding
error of one that is nearly 0 by nearly 0."""
TOLERANCE = 1e-5
"""Of weights, absolute: sums of 16 gradients in float32, in another order; they move by 1e-2."""
DUMP = "--xla_dump_hlo_as_text --xla_dump_hlo_module_re=SyncTensorsGraph.* --xla_dump_to="


class Pair:
    """The same training on one device with the full batch, and on two with half of it each."""

    def __init__(self, folder: Path) -> None:
        self.optimised = folder / "dump"
        one, two = folder / "one.pt", folder / "two.pt"
        full = Knobs.model_validate(PLAIN_SGD | {"batch_size": 16})
        halves = Knobs.model_validate(PLAIN_SGD | {"engine": "spmd"})
        self.one = xla_child.run("xla_spmd.trained", full, **{WEIGHTS: str(one)})
        dump = {"XLA_FLAGS": f"{DUMP}{self.optimised}"}
        self.two = xla_child.run("xla_spmd.trained", halves, **{WEIGHTS: str(two)}, **dump)
        self.weights = one, two


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("spmd"))


def test_two_devices_train_as_one_process_on_the_full_batch(pair: Pair) -> None:
    import torch

    assert pair.two["losses"] == pytest.approx(pair.one["losses"], abs=TOLERANCE)
    assert pair.one["moved"] > 1000 * TOLERANCE
    one, two = (torch.load(path) for path in pair.weights)
    apart = [float((a - b).abs().max()) for a, b in zip(one, two, strict=True)]
    assert max(apart) < TOLERANCE
    assert pair.two["copies_agree"] is True


def test_the_devices_exchange_and_each_holds_its_part_of_images_and_labels(pair: Pair) -> None:
    assert pair.two["collectives"] == "2 of 2 devices, all-reduce of index + 1 gives 3, 3"
    assert pair.two["parts"] == [[8, 8], [8, 8]]
    told = {"engine": "spmd", "processes": 1, "spmd.devices": 2, "spmd.inputs": "sharded"}
    told |= {"batch_size": 8, "devices": "CPU:0, CPU:1", "virtual_devices": True}
    assert told.items() <= pair.two["actual"].items()


def test_the_compiled_step_is_that_of_one_part_and_adds_the_gradients_up(pair: Pair) -> None:
    graphs = sorted(pair.optimised.glob("*cpu_after_optimizations.txt"), key=_size)
    step = graphs[-1].read_text(encoding="utf-8")
    images = re.findall(r"= f32\[(\d+),3,32,32\]\S* parameter\(\d+\), sharding=(\S+)", step)
    assert images == [("8", "{devices=[2,1,1,1]0,1}")]
    assert "all-reduce" in step


def test_the_output_of_a_forward_pass_lies_whole_on_every_device(pair: Pair) -> None:
    # The fence waits for the first device, which answers for all where it needs something of each.
    assert pair.two["output_parts"] == [16, 16]


def test_one_device_is_the_first_of_a_scaling_sweep() -> None:
    case = Knobs.model_validate(
        PLAIN_SGD | {"engine": "spmd", "spmd": {"devices": 1}, "data": {"source": "device"}}
    )
    found = xla_child.run("xla_spmd.trained", case, **{WEIGHTS: os.devnull})
    assert found["collectives"] == "1 of 1 devices, all-reduce of index + 1 gives 1"
    assert found["parts"] == [[8], [8]]
    assert found["moved"] > 1000 * TOLERANCE
    told = {"engine": "spmd", "spmd.devices": 1, "spmd.inputs": "sharded", "batch_size": 8}
    assert told.items() <= found["actual"].items()


def test_graphs_are_counted_as_on_one_device(pair: Pair) -> None:
    # The proof of the collectives is a graph of its own, and so is the loss that is read.
    assert pair.two["executions"] - pair.one["executions"] in range(1, 3)
    assert pair.one["executions"] >= STEPS
    assert pair.two["graph"] == pair.one["graph"]


def _size(path: Path) -> int:
    return path.stat().st_size
