"""The look inside a step on real torch_xla: types in the HLO, and no graph that was not there."""

from __future__ import annotations

from typing import Any

import pytest

from bench.scenarios.schema import Knobs
from tests.backends import xla_child
from tests.small_vit import SMALL_VIT

pytestmark = [
    pytest.mark.xla,
    pytest.mark.slow,
    pytest.mark.skipif(not xla_child.INSTALLED, reason="torch_xla is not installed"),
]

FORWARD, TRAINING = 14, 42
"""Products of the small ViT: a convolution, nine layers, and two attentions of two each; backward
twice as many, those of the images' gradient included."""
ATTENTION = 12
"""Of these, in attention that is not fused."""
PROBES = 2
"""The product and the convolution of known matrices: a graph each."""


def look(experiment: str = "look", **settings: Any) -> dict[str, Any]:
    case = Knobs.model_validate({**SMALL_VIT, "data": {"source": "cached"}, **settings})
    return xla_child.run(f"xla_inspection.{experiment}", case)


@pytest.mark.parametrize(
    ("precision", "types", "rounds_to"),
    [
        ("fp32", {"fp32": TRAINING}, "fp32"),
        ("amp-bf16", {"bf16": TRAINING}, "bf16"),
        ("bf16", {"bf16": TRAINING - ATTENTION, "fp32": ATTENTION}, "bf16"),
        ("bf16-env", {"bf16": TRAINING}, "bf16"),
    ],
)
def test_the_types_in_the_graph_and_of_a_product_are_those_of_the_precision(
    precision: str, types: dict[str, int], rounds_to: str
) -> None:
    found = look(precision=precision)
    assert found["matmul_types"] == types
    assert found["matmul_source"] == "the compiler's input (HLO)"
    assert found["matmul_format"] == rounds_to
    assert (found["matmul_error"] > 1e-4) == (rounds_to == "bf16")
    assert found["gradient_kept"] == 1.0
    assert found["batches_distinct"] == 8
    assert found["skipped"] == []
    # Drawing and reading batches executes nothing, and the steps are those of the windows.
    assert found["executions"] == 2 * found["executions_per_period"] + PROBES
    assert found["compiles"] == PROBES
    assert found["compiles_later"] == 0


def test_several_micro_batches_a_graph_are_looked_at_without_cutting_it_short() -> None:
    found = look(loader={"batches_per_execution": 3}, task="infer", optimizer=None)
    assert found["matmul_types"] == {"fp32": 3 * FORWARD}
    assert found["batches_seen"] % 3 == 0
    assert found["executions"] == found["executions_per_period"] + PROBES
    assert found["compiles"] == PROBES
    assert found["compiles_later"] == 0


def test_an_autocast_of_another_device_type_casts_nothing() -> None:
    found = look("look_without_autocast", precision="amp-bf16")
    assert found["matmul_types"] == {"fp32": TRAINING}
    assert found["matmul_format"] == "fp32"


@pytest.mark.parametrize("experiment", ["look_at_clipping", "look_at_clipping_of_the_data"])
def test_clipped_gradients_are_noticed_and_then_measured(experiment: str) -> None:
    found = look(experiment)
    assert 0 < found["gradient_kept"] < 0.5


def test_compiled_by_openxla_the_products_are_not_shown_and_the_reason_is() -> None:
    found = look(compile="openxla")
    assert found["matmul_types"] is None
    assert found["skipped"] == ["products: the device does not show them with compile=openxla"]
    assert found["matmul_format"] == "fp32"
