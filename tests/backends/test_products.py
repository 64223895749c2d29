"""Products counted where they are dispatched: eager, under autocast, and in compiled code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("timm")

import timm
import torch

from bench.backends import products
from bench.backends.cpu import CpuBackend
from bench.backends.products import DispatchedProducts, dispatched

pytestmark = pytest.mark.torch

FORWARD, BACKWARD = 12, 21
"""Of the small ViT: a convolution, nine linear layers and two fused attentions; each linear layer
has two products backward, and the convolution and the attentions have one operator each."""


def small_vit() -> Any:
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=64,
        depth=2,
        num_heads=2,
        num_classes=10,
    )


def training(module: Any, *, autocast: str | None = None, dtype: Any = None) -> Callable[[], None]:
    images = torch.randn(4, 3, 32, 32).to(dtype or torch.float32)
    labels = torch.zeros(4, dtype=torch.int64)

    def step() -> None:
        enabled = autocast is not None
        with torch.autocast(autocast or "cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = torch.nn.functional.cross_entropy(module(images), labels)
        loss.backward()

    return step


def test_every_product_of_a_vit_is_counted_forward_and_backward() -> None:
    assert dispatched(training(small_vit())) == {"fp32": FORWARD + BACKWARD}


def test_autocast_casts_every_product_of_a_vit_and_of_a_resnet() -> None:
    """The rule of the audit rests on this: nothing stays behind in float32."""
    assert dispatched(training(small_vit(), autocast="cpu")) == {"bf16": FORWARD + BACKWARD}
    resnet = timm.create_model("resnet18", num_classes=10)
    assert dispatched(training(resnet, autocast="cpu")) == {"bf16": 43}


@pytest.mark.filterwarnings("ignore:CUDA is not available", "ignore:User provided device_type")
def test_an_autocast_of_the_wrong_device_type_casts_nothing() -> None:
    assert dispatched(training(small_vit(), autocast="cuda")) == {"fp32": FORWARD + BACKWARD}


def test_weights_in_bfloat16_multiply_in_bfloat16() -> None:
    step = training(small_vit().to(torch.bfloat16), dtype=torch.bfloat16)
    assert dispatched(step) == {"bf16": FORWARD + BACKWARD}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_has_the_forward_products_whichever_way_gradients_are_off(mode: Any) -> None:
    module, images = small_vit().eval(), torch.randn(4, 3, 32, 32)

    def infer() -> None:
        with mode():
            module(images)

    assert dispatched(infer) == {"fp32": FORWARD}


@pytest.mark.parametrize(
    ("work", "counted"),
    [
        (lambda: torch.ones(4, 4, dtype=torch.int64) @ torch.ones(4, 4, dtype=torch.int64), {}),
        (lambda: torch.ones(4, 4).double() @ torch.ones(4, 4).double(), {"fp64": 1}),
        (lambda: torch.ones(4, 4).half() @ torch.ones(4, 4).half(), {"fp16": 1}),
        (lambda: torch.baddbmm(torch.ones(1, 4, 4), *torch.ones(2, 1, 4, 4)), {"fp32": 1}),
        (lambda: torch.ones(4, 4) * torch.ones(4, 4) + 1, {}),
        (
            lambda: torch.conv_transpose2d(torch.ones(1, 2, 4, 4), torch.ones(2, 2, 3, 3)),
            {"fp32": 1},
        ),
        (
            lambda: torch._int_mm(*(torch.ones(32, 32, dtype=torch.int8) for _ in range(2))),
            {"int8": 1},
        ),
    ],
)
def test_other_types_have_their_names_and_other_work_is_not_counted(
    work: Callable[[], Any], counted: dict[str, int]
) -> None:
    assert dispatched(work) == counted


def test_operands_decide_and_not_the_bias_or_the_result() -> None:
    counts: Counter[str] = Counter()
    bias, left, right = (
        torch.ones(4, 4, dtype=d) for d in (torch.float32, torch.bfloat16, torch.float32)
    )
    products.note(counts, torch.ops.aten.addmm.default, (bias, left, left))
    products.note(counts, torch.ops.aten.mm.default, (left, right))
    float8 = torch.ones(4, 4).to(torch.float8_e4m3fn)
    products.note(counts, torch.ops.aten._scaled_mm.default, (float8, float8, bias, bias))
    assert counts == {"bf16": 1, "bf16+fp32": 1, "fp8": 1}


class Net(torch.nn.Module):
    """A convolution, two linear layers, and something to fuse between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 8, stride=8)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(128, 32), torch.nn.GELU(), torch.nn.Linear(32, 10)
        )

    def forward(self, images: Any) -> Any:
        return self.layers(self.stem(images).flatten(1))


NET = 3 + 5
"""Products forward and backward: the images need no gradient, and the layers need two each."""


def test_the_graphs_that_torch_compile_traces_can_be_counted_instead() -> None:
    torch._dynamo.reset()
    for autocast, name in ((None, "fp32"), ("cpu", "bf16")):
        counts: Counter[str] = Counter()
        module = torch.compile(Net(), backend=products.counting_backend(counts))
        training(module, autocast=autocast)()
        assert counts == {name: NET}


@pytest.mark.slow
@pytest.mark.skipif(not CpuBackend().probe().facts.get("cxx"), reason="no C++ compiler")
def test_compiled_code_goes_on_running_compiled_while_its_products_are_counted() -> None:
    torch._dynamo.reset()
    seen: list[str] = []

    class Telling(DispatchedProducts):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func._schema.name)
            return super().__torch_dispatch__(func, types, args, kwargs)

    eager, compiled = training(Net()), training(torch.compile(Net()), autocast="cpu")
    compiled()
    with Telling() as counter:
        compiled()
    assert counter.counted == {"bf16": NET}
    # What the compiler fused is not dispatched: had the module run eagerly, it would be.
    assert "aten::gelu" not in seen
    seen.clear()
    with Telling() as counter:
        eager()
    assert counter.counted == {"fp32": NET}
    assert "aten::gelu" in seen
