"""Building the model a case names: from timm, or from the user's own factory.

Weights are always random: nothing is downloaded. Knows nothing of devices.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.backends.base import Unsupported
from bench.scenarios.schema import Knobs
from bench.workload.errors import BadCase

_DEFAULT_IMAGE_SIZE = 224
_WRONG_ARGUMENT = re.compile(
    r"(?:unexpected keyword argument|multiple values for(?: keyword)? argument) '(\w+)'"
)


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
        wrong = _WRONG_ARGUMENT.search(str(error))
        if wrong is None or wrong[1] not in arguments:
            raise
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
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The module may be there and miss one of its own imports: that is no mistake in the case.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise BadCase(
            f"model={knobs.model}: there is no module {error.name} in the working directory or "
            "the installed packages"
        ) from error
    if not hasattr(module, factory_name):
        raise BadCase(f"model={knobs.model}: {module_name} has no {factory_name}")
    factory = getattr(module, factory_name)
    _check_arguments(factory, knobs)
    model = factory(**knobs.model_kwargs)
    if not isinstance(model, torch.nn.Module):
        raise BadCase(
            f"model={knobs.model}: the factory returned {type(model).__name__}, not a "
            "torch.nn.Module"
        )
    return Model(model, knobs.image_size or _DEFAULT_IMAGE_SIZE)


def _check_arguments(factory: Any, knobs: Knobs) -> None:
    # Before the call, for a TypeError from inside the factory is a fault of its own.
    if not callable(factory):
        raise BadCase(f"model={knobs.model}: {type(factory).__name__} is not callable")
    try:
        signature = inspect.signature(factory)
    except ValueError:
        return  # some callables written in C have no signature to look at
    try:
        signature.bind(**knobs.model_kwargs)
    except TypeError as error:
        raise BadCase(f"model={knobs.model}, model_kwargs={knobs.model_kwargs}: {error}") from error
