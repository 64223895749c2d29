"""Building the model a case names: from timm, or from the user's own factory.

Weights are always random: nothing is downloaded. Knows nothing of devices.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.backends.base import Unsupported
from bench.scenarios.schema import Knobs
from bench.workload.errors import BadCase

_DEFAULT_IMAGE_SIZE = 224


@dataclass(frozen=True)
class Model:
    """A model on the host, with the shape of its input."""

    module: torch.nn.Module
    image_size: int
    """Unit: pixels."""


def build(knobs: Knobs) -> Model:
    """Build the model with random weights on the host.

    Raises:
        BadCase: the model, or one of its arguments, does not exist.
        Unsupported: the model offers no activation checkpointing and the case asks for it.
    """
    _refuse_conflicts(knobs)
    model = _from_factory(knobs) if ":" in knobs.model else _from_timm(knobs)
    if knobs.activation_checkpointing:
        enable = getattr(model.module, "set_grad_checkpointing", None)
        if enable is None:
            raise Unsupported(
                "activation_checkpointing",
                True,
                f"the model {knobs.model} has no method set_grad_checkpointing(enable)",
            )
        enable(True)
    model.module.train(knobs.task == "train")
    return model


def _refuse_conflicts(knobs: Knobs) -> None:
    size = knobs.model_kwargs.get("img_size")
    if size is not None and knobs.image_size is not None and size != knobs.image_size:
        raise BadCase(
            f"model_kwargs.img_size={size} contradicts image_size={knobs.image_size}: keep one"
        )
    if "num_classes" in knobs.model_kwargs:
        raise BadCase("model_kwargs.num_classes: set the knob `classes` instead")


def _from_timm(knobs: Knobs) -> Model:
    import timm

    if not timm.is_model(knobs.model):
        close = difflib.get_close_matches(knobs.model, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise BadCase(f"model={knobs.model}: timm {timm.__version__} has no such model{hint}")
    own_size = _own_image_size(knobs.model)
    asked = knobs.model_kwargs.get("img_size") or knobs.image_size
    size = asked if isinstance(asked, int) else own_size
    arguments: dict[str, Any] = dict(knobs.model_kwargs)
    if size != own_size and "img_size" not in arguments and _takes_image_size(knobs.model):
        arguments["img_size"] = size
    try:
        module = timm.create_model(
            knobs.model, pretrained=False, num_classes=knobs.classes, **arguments
        )
    except TypeError as error:
        raise BadCase(f"model_kwargs={knobs.model_kwargs}: {knobs.model} says: {error}") from error
    return Model(module, size)


def _own_image_size(name: str) -> int:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return int(config.input_size[-1]) if config is not None else _DEFAULT_IMAGE_SIZE


def _takes_image_size(name: str) -> bool:
    # Convolutional models take any size as it comes; the others need it to lay out their positions.
    import timm

    with torch.device("meta"):
        try:
            timm.create_model(name, pretrained=False, img_size=_DEFAULT_IMAGE_SIZE)
        except TypeError:
            return False
    return True


def _from_factory(knobs: Knobs) -> Model:
    module_name, _, factory_name = knobs.model.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise BadCase(
            f"model={knobs.model}: there is no module {error.name} in the working directory or "
            "the installed packages"
        ) from error
    except AttributeError as error:
        raise BadCase(f"model={knobs.model}: {module_name} has no {factory_name}") from error
    try:
        module = factory(**knobs.model_kwargs)
    except TypeError as error:
        raise BadCase(f"model={knobs.model}, model_kwargs={knobs.model_kwargs}: {error}") from error
    if not isinstance(module, torch.nn.Module):
        raise BadCase(
            f"model={knobs.model}: the factory returned {type(module).__name__}, not a "
            "torch.nn.Module"
        )
    return Model(module, knobs.image_size or _DEFAULT_IMAGE_SIZE)
