"""Batches on their way to a real XLA device: where the graph is cut, and what a window times."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.scenarios.schema import Knobs, LoaderKnobs
from tests.backends import xla_child
from tests.small_vit import SMALL_VIT

pytestmark = [
    pytest.mark.xla,
    pytest.mark.skipif(not xla_child.INSTALLED, reason="torch_xla is not installed"),
]


@pytest.fixture(scope="module")
def cuts() -> dict[str, Any]:
    return xla_child.run("xla_experiments.cuts")


@pytest.mark.parametrize("source", ["cached", "device"])
def test_graphs_hold_three_then_four_then_four_batches(cuts: dict[str, Any], source: str) -> None:
    assert cuts[source]["cut_before"] == [4, 8, 12, 16, 20]
    assert cuts[source]["total"] == 20 * 16


@pytest.mark.parametrize("source", ["cached", "device"])
def test_the_second_graph_is_the_last_that_is_compiled(cuts: dict[str, Any], source: str) -> None:
    first, *later = cuts[source]["compiles"]
    assert later == [first + 1] * 4


@pytest.fixture(scope="module")
def feeding() -> dict[str, Any]:
    return xla_child.run("xla_experiments.feeding")


def test_the_same_tensor_twice_is_two_tensors_on_the_device(feeding: dict[str, Any]) -> None:
    assert feeding["distinct_tensors"] == 12


def test_an_error_in_the_host_loader_reaches_the_step(feeding: dict[str, Any]) -> None:
    assert feeding["raised"] == "the disk is gone"


def test_every_batch_arrives_in_order(feeding: dict[str, Any]) -> None:
    assert feeding["finite"] == [0, 1, 2]
    assert feeding["from_workers"] == [[i * i for i in range(b, b + 4)] for b in range(0, 20, 4)]


def test_closing_the_device_stops_the_loaders_threads(feeding: dict[str, Any]) -> None:
    assert feeding["threads_running"] > 1
    assert feeding["threads_after_close"] == 1


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, {}),
        (
            {"prefetch": 3, "device_prefetch": 5, "transfer_threads": 2},
            {
                "loader_prefetch_size": 3,
                "device_prefetch_size": 5,
                "host_to_device_transfer_threads": 2,
            },
        ),
    ],
)
def test_queues_and_threads_are_those_that_were_asked_for(
    asked: dict[str, int], given: dict[str, int]
) -> None:
    found = xla_child.run("xla_experiments.queues", Knobs(loader=LoaderKnobs(**asked)))
    assert found == {"batches_per_execution": 1, "input_sharding": None, **given}


@pytest.mark.parametrize(("per_graph", "late"), [(1, False), (4, True)])
def test_several_adam_updates_in_a_graph_compile_again_when_their_scalars_become_equal(
    per_graph: int, late: bool
) -> None:
    # From step 300 on, Adam's bias corrections of neighbouring steps are the same float32: the
    # graph then has fewer inputs. Only a counter that is watched in every window sees this.
    case = Knobs.model_validate(
        {"data": {"source": "device"}, "loader": {"batches_per_execution": per_graph}}
    )
    steps = xla_child.run("xla_training.late_compiles", case)["steps"]
    assert len([step for step in steps if step <= 2 * per_graph + 1]) == 2
    assert any(step > 300 for step in steps) == late
    assert not [step for step in steps if 2 * per_graph + 1 < step <= 300]


@pytest.mark.alone
@pytest.mark.slow
def test_a_fenced_window_is_true_where_a_step_clock_is_not() -> None:
    case = Knobs.model_validate(
        {
            **SMALL_VIT,
            "batch_size": 64,
            "optimizer": "sgd",
            "data": {"source": "cached"},
            "loader": {"batches_per_execution": 4, "prefetch": 1, "device_prefetch": 1},
        }
    )
    found = xla_child.run("xla_training.harness_and_hand", case)
    assert found["compiles"] == 0
    assert found["executions"] == found["expected_executions"]
    assert found["fallbacks"] == {}
    assert math.isfinite(found["loss"])
    if found["undecided"]:
        pytest.skip(f"this machine is too noisy to tell 5 %: {found}")
    assert 0.95 < found["ratio"] < 1.05, found
    assert found["naive_ratio"] < 0.7, found
