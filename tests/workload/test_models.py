"""Models: by timm's names and by a user's factory, at any size, with clear mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.backends.base import Unsupported
from bench.scenarios.schema import Knobs
from bench.workload import models
from bench.workload.errors import BadCase
from tests.small_vit import SMALL_VIT

pytestmark = pytest.mark.torch
HERE = "tests.workload.factories"


def built(**changes: Any) -> models.Model:
    return models.build(Knobs.model_validate(changes))


def test_a_timm_model_is_built_with_its_classes_at_its_own_size() -> None:
    found = built(model="test_vit", classes=7)
    assert found.image_size == 160
    assert found.module(torch.zeros(2, 3, 160, 160)).shape == (2, 7)


def test_a_vit_is_laid_out_for_the_image_size_asked_for() -> None:
    found = built(**SMALL_VIT)
    assert found.image_size == 32
    assert found.module.pos_embed.shape == (1, 1 + 16, 64)
    assert found.module(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_img_size_among_the_models_own_arguments_is_the_image_size() -> None:
    arguments = {**SMALL_VIT["model_kwargs"], "img_size": 48}
    found = built(model="vit_tiny_patch16_224", model_kwargs=arguments, classes=10)
    assert found.image_size == 48
    assert found.module(torch.zeros(1, 3, 48, 48)).shape == (1, 10)


def test_a_cnn_takes_any_image_size_without_an_argument_for_it() -> None:
    found = built(model="test_resnet", image_size=64, classes=3)
    assert found.image_size == 64
    assert found.module(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


def test_a_users_factory_is_called_with_the_model_kwargs() -> None:
    found = built(model=f"{HERE}:mlp", model_kwargs={"width": 48, "classes": 4}, image_size=4)
    assert found.image_size == 4
    assert found.module(torch.zeros(2, 3, 4, 4)).shape == (2, 4)


@pytest.mark.parametrize(("task", "training"), [("train", True), ("infer", False)])
def test_the_task_decides_the_mode_of_the_model(task: str, training: bool) -> None:
    assert built(**SMALL_VIT, task=task).module.training is training


def test_two_builds_with_one_seed_are_equal() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(torch.cat([p.flatten() for p in built(**SMALL_VIT).module.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vit_tiny_patch16_244"}, "did you mean vit_tiny_patch16_224"),
        ({"model": "zzzzqqqq"}, "model=zzzzqqqq: timm .* has no such model$"),
        ({"model": "no_such_place:build"}, "there is no module no_such_place"),
        ({"model": f"{HERE}:absent"}, f"{HERE} has no absent"),
        ({"model": f"{HERE}:not_a_module"}, "the factory returned str, not a torch.nn.Module"),
        ({"model": f"{HERE}:NOT_CALLABLE"}, "not callable"),
        ({"model": f"{HERE}:mlp", "model_kwargs": {"depth": 1}}, "unexpected keyword.*depth"),
        ({"model": "test_vit", "model_kwargs": {"wings": 2}}, "test_vit says: .*wings"),
        ({"model": "test_vit", "model_kwargs": {"pretrained": True}}, "says: .*pretrained"),
        ({"image_size": 32, "model_kwargs": {"img_size": 64}}, "img_size=64 contradicts"),
        ({"model_kwargs": {"num_classes": 5}}, "set the knob `classes` instead"),
    ],
)
def test_a_case_that_names_what_does_not_exist_says_so(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadCase, match=message):
        built(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": f"{HERE}:faulty", "model_kwargs": {"width": 4}},
        {"model": "test_vit", "model_kwargs": {"depth": "two"}},
    ],
)
def test_a_type_error_from_inside_a_model_is_a_fault_and_no_bad_case(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(TypeError):
        built(**changes)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import no_such_thing", ModuleNotFoundError),
        ("import torch; torch.no_such_thing", AttributeError),
    ],
)
def test_a_module_that_cannot_be_imported_is_a_fault_and_not_absent(
    code: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its name begins as that of the module it misses does.
    name = f"no_such_thing_of_{error.__name__.lower()}"
    (tmp_path / f"{name}.py").write_text(f"{code}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(error, match="no_such_thing"):
        built(model=f"{name}:build")


def test_a_model_without_checkpointing_is_refused_where_it_is_asked_for() -> None:
    with pytest.raises(Unsupported, match="no method set_grad_checkpointing") as refused:
        built(
            model=f"{HERE}:mlp",
            model_kwargs={"width": 48},
            image_size=4,
            activation_checkpointing=True,
        )
    assert refused.value.refusal.knob == "activation_checkpointing"


def forwards_of_a_block(checkpointing: bool) -> int:
    """Return how often a block's forward ran in one forward and backward of the model."""
    module = built(**SMALL_VIT, activation_checkpointing=checkpointing).module
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    # Before the forward: torch ends a recomputation as soon as it has what the backward needs.
    module.blocks[0].mlp.register_forward_pre_hook(count)
    module(torch.randn(2, 3, 32, 32)).sum().backward()
    return calls


def test_activation_checkpointing_runs_each_block_a_second_time() -> None:
    assert forwards_of_a_block(checkpointing=False) == 1
    assert forwards_of_a_block(checkpointing=True) == 2
