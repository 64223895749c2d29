"""Training whose linear layers multiply in float8, by torchao: which layers, and whether they fit.

Weights stay in float32 and autocast hands over bfloat16, which each product of a converted layer
casts to float8: forward, the gradient of its input and that of its weights. The classifier stays as
it is, as do convolutions and attention. Knows no device and no clock; torchao is imported when it
is needed, since only these precisions need it.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import JsonValue

from bench.backends.base import Unsupported
from bench.scenarios.schema import FLOAT8, Knobs
from bench.workload import models

MULTIPLE = 16
"""The sizes of a float8 product's operands that the kernels take: rows and columns of the second,
and columns of the first (torch._scaled_mm on CUDA).
"""
_RECIPES = {"fp8-tensorwise": "tensorwise", "fp8-rowwise": "rowwise"}
_SCALES = {"tensorwise": "fp8-tensorwise", "axiswise": "fp8-rowwise"}
_LAYER = "torchao.float8.float8_linear"
_EMULATED = " (emulated)"


@dataclass(frozen=True)
class Product:
    """A linear layer at work: [rows, inputs] by [inputs, outputs]."""

    layer: str
    rows: int
    """Of the whole batch: samples times tokens."""
    inputs: int
    outputs: int

    def misfit(self, batch_size: int, *, trained: bool) -> str | None:
        """Return why float8 kernels do not take it, with what helps; null: they do.

        Args:
            batch_size: Samples that the rows are of.
            trained: Its weights get a gradient, which is a product that sums over the rows.
        """
        sizes = (
            f"{self.layer} multiplies {self.rows} x {self.inputs} by "
            f"{self.inputs} x {self.outputs}, and float8 takes multiples of {MULTIPLE}"
        )
        for count, name in ((self.inputs, "inputs"), (self.outputs, "outputs")):
            if count % MULTIPLE:
                return f"{sizes}: {count} {name} are none; choose a model whose widths are"
        if trained and self.rows % MULTIPLE:
            per_sample = self.rows // batch_size
            step = MULTIPLE // math.gcd(MULTIPLE, per_sample)
            return (
                f"{sizes}: the gradient of its weights sums over {batch_size} x {per_sample} = "
                f"{self.rows} rows; set batch_size to a multiple of {step}"
            )
        return None


def convert(
    module: torch.nn.Module, knobs: Knobs, image_size: int, *, emulate: bool
) -> torch.nn.Module:
    """Return the model with its linear layers in float8, all but the classifier.

    Args:
        module: Is changed in place, unless it is a linear layer itself.
        knobs: Of the case; another precision than `FLOAT8` leaves the model as it is.
        image_size: Height and width of a sample. Unit: pixels.
        emulate: Round to float8 and multiply in float32, where there is no product of float8.

    Raises:
        Unsupported: a layer does not fit, or there is none to convert.
    """
    if knobs.precision not in FLOAT8:
        return module
    chosen = _chosen(module, knobs, image_size)
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig.from_recipe_name(_RECIPES[knobs.precision])
    converted: torch.nn.Module = convert_to_float8_training(
        module,
        config=replace(config, emulate=emulate),
        module_filter_fn=lambda _layer, name: name in chosen,
    )
    return converted


def precision_of(module: torch.nn.Module) -> str | None:
    """Return the float8 precision of a model, read back from its layers; null: none, or several."""
    names = {_precision(layer) for layer in _converted(module).values()}
    return names.pop() if len(names) == 1 else None


def describe(module: torch.nn.Module) -> dict[str, JsonValue]:
    """Return which layers multiply in float8 and which linear ones do not; empty: none does."""
    converted = _converted(module)
    if not converted:
        return {}
    kept = [name for name, _ in _linear(module) if name not in converted]
    return {"float8_layers": len(converted), "linear_layers_kept": ", ".join(kept)}


def products(knobs: Knobs, image_size: int) -> list[Product]:
    """Return the products of the model's linear layers, from a forward pass on the meta device.

    Args:
        knobs: Of the case.
        image_size: Height and width of a sample. Unit: pixels.

    Raises:
        Unsupported: the model does not run there.
    """
    rows: dict[str, set[int]] = defaultdict(set)
    try:
        with torch.device("meta"):
            model = models.build(knobs).module
            images = torch.empty(knobs.batch_size, 3, image_size, image_size)
        model = model.to("meta")
        for name, layer in _linear(model):
            layer.register_forward_pre_hook(
                lambda layer, given, name=name: rows[name].add(
                    given[0].numel() // layer.in_features
                )
            )
        with torch.no_grad():
            model(images)
    except Exception as error:  # a model of the user's may do anything, and need not run here
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Unsupported(
            "precision",
            knobs.precision,
            f"the sizes of its products are not known: the model does not run on the meta device: "
            f"{first}",
        ) from error
    return [
        Product(name, count, layer.in_features, layer.out_features)
        for name, layer in _linear(model)
        for count in sorted(rows[name])
    ]


def _chosen(module: torch.nn.Module, knobs: Knobs, image_size: int) -> frozenset[str]:
    """Return the names of the layers to convert.

    Raises:
        Unsupported: one of them does not fit, or there is none.
    """
    classifier = _classifier(module, knobs.classes)
    wanted = [one for one in products(knobs, image_size) if one.layer != classifier]
    if not wanted:
        reason = f"{knobs.model} has no linear layer but its classifier"
        raise Unsupported("precision", knobs.precision, reason)
    for product in wanted:
        misfit = product.misfit(knobs.batch_size, trained=knobs.task == "train")
        if misfit is not None:
            raise Unsupported("precision", knobs.precision, misfit)
    return frozenset(product.layer for product in wanted)


def _classifier(module: torch.nn.Module, classes: int) -> str | None:
    """Return the name of the layer that gives the logits: as the model says, else the last such."""
    told = getattr(module, "get_classifier", None)
    named = told() if callable(told) else None
    layers = list(_linear(module))
    for name, layer in layers:
        if layer is named:
            return name
    fitting = [name for name, layer in layers if layer.out_features == classes]
    return fitting[-1] if fitting else None


def _linear(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Linear]]:
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            yield name, layer


def _converted(module: torch.nn.Module) -> Mapping[str, Any]:
    if _LAYER not in sys.modules:
        return {}
    kind = sys.modules[_LAYER].Float8Linear
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kind)}


def _precision(layer: Any) -> str | None:
    casts = layer.config.cast_config_input.scaling_granularity.value
    name = _SCALES.get(casts)
    return f"{name}{_EMULATED}" if name is not None and layer.config.emulate else name
