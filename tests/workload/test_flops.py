"""FLOPs of a sample, counted on the meta device, against figures known from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.scenarios.schema import Knobs
from bench.workload import flops

pytestmark = pytest.mark.torch

FACTORIES = """\
import torch

class Meta(torch.nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make
        self.layer = torch.nn.Linear(3, 4)
    def forward(self, images):
        return self.make(self, images)

def depthwise(groups=8, transposed=False):
    kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    stem = torch.nn.Conv2d(3, 8, 1)
    middle = kind(8, 8, 3, padding=1, groups=groups, bias=False)
    return torch.nn.Sequential(stem, middle, torch.nn.Flatten(), torch.nn.Linear(8 * 64, 10))

def reads_a_value():
    return Meta(lambda self, images: self.layer(images.mean((2, 3))) * float(images.max().item()))

def keeps_numbers_on_the_host():
    host = torch.tensor([1.0, 2.0, 3.0], device="cpu")
    return Meta(lambda self, images: self.layer(images.mean((2, 3)) * host.to(images.device)))

def without_products():
    class Bias(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(3))
        def forward(self, images):
            return images.mean((2, 3)) + self.bias
    return Bias()
"""


@pytest.fixture(autouse=True)
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counted_nets.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def gflop(model: str, image_size: int, task: str = "train", **knobs: Any) -> float:
    found = flops.count(Knobs.model_validate({"model": model, "task": task, **knobs}), image_size)
    assert found.reason is None
    assert found.per_sample is not None
    return found.per_sample / 1e9


@pytest.mark.parametrize(
    ("model", "forward", "training"),
    [
        ("vit_tiny_patch16_224", 2.507, 7.464),
        ("vit_base_patch16_224", 35.128, 105.152),
        # Twice the multiply-adds of the papers: 1.81, 4.09, 4.46 and 0.39 G.
        ("resnet18", 3.628, 10.648),
        ("resnet50", 8.178, 24.299),
        ("convnext_tiny", 8.911, 26.704),
        ("efficientnet_b0", 0.7716, 2.2932),
    ],
)
def test_known_models_have_their_known_flops(model: str, forward: float, training: float) -> None:
    assert gflop(model, 224, "infer") == pytest.approx(forward, rel=2e-4)
    assert gflop(model, 224) == pytest.approx(training, rel=2e-4)


def test_checkpointing_recomputes_and_the_model_costs_the_same() -> None:
    plain = gflop("vit_tiny_patch16_224", 224)
    assert gflop("vit_tiny_patch16_224", 224, activation_checkpointing=True) == plain


def test_the_precision_changes_no_count() -> None:
    plain = gflop("vit_tiny_patch16_224", 224)
    assert gflop("vit_tiny_patch16_224", 224, precision="bf16") == plain


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_grouped_convolution_costs_as_much_backward_twice_as_forward(
    groups: int, transposed: bool
) -> None:
    """Counted by hand: 64 pixels, 8 channels, 3 x 3 kernels, and two layers around them."""
    middle = 2 * 64 * 8 * (8 // groups) * 9
    stem, head = 2 * 64 * 3 * 8, 2 * 8 * 64 * 10
    kwargs = {"groups": groups, "transposed": transposed}
    forward = gflop("counted_nets:depthwise", 8, "infer", model_kwargs=kwargs, classes=10)
    assert forward * 1e9 == pytest.approx(stem + middle + head)
    training = gflop("counted_nets:depthwise", 8, model_kwargs=kwargs, classes=10)
    # The images need no gradient, so the stem has one product less.
    assert training * 1e9 == pytest.approx(2 * stem + 3 * middle + 3 * head)


def test_a_model_that_reads_values_has_no_count_and_a_reason() -> None:
    found = flops.count(Knobs(model="counted_nets:reads_a_value", classes=4), 8)
    assert found.per_sample is None
    assert found.reason is not None
    assert found.reason.startswith("the model does not run on the meta device: ")


def test_numbers_that_a_model_keeps_on_the_host_do_not_matter() -> None:
    assert gflop("counted_nets:keeps_numbers_on_the_host", 8, classes=4) * 1e9 == 2 * 2 * 3 * 4


def test_a_model_without_products_has_no_count_and_says_so() -> None:
    found = flops.count(Knobs(model="counted_nets:without_products", classes=3), 8)
    assert found.per_sample is None
    assert found.reason == "the model has no product that the counter knows"


def test_counting_leaves_the_generators_of_random_numbers_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    gflop("vit_tiny_patch16_224", 224)
    assert torch.equal(torch.random.get_rng_state(), before)
