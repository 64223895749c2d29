"""What was asked for and what really runs, setting by setting, read back from the built objects."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import JsonValue

from bench.backends.base import Device
from bench.scenarios.schema import Knobs
from bench.workload import float8, optimizers
from bench.workload.engines import Engine
from bench.workload.step import Step, TrainStep

_ASKED_ALWAYS = (
    "task",
    "precision",
    "compile",
    "batch_size",
    "channels_last",
)
_ASKED_TRAINING = (
    "optimizer",
    "optimizer_impl",
    "learning_rate",
    "weight_decay",
    "momentum",
    "gradient_accumulation",
)
_CHECKPOINTING = "grad_checkpointing"
"""Where timm's models keep whether they checkpoint."""


def asked(
    knobs: Knobs, engine: Engine, model: torch.nn.Module, image_size: int
) -> dict[str, JsonValue]:
    """Return the settings that `actual` can read back, as the case asks for them.

    Args:
        knobs: The case.
        engine: Tells what can be read back of its own settings.
        model: Tells what it lets be read back.
        image_size: Of the samples that the model was built for. Unit: pixels.
    """
    names = _ASKED_ALWAYS + (_ASKED_TRAINING if knobs.task == "train" else ())
    wanted: dict[str, JsonValue] = {name: getattr(knobs, name) for name in names}
    wanted |= engine.asked(knobs)
    wanted["image_size"] = image_size
    for name in ("compile_mode", "threads"):
        if getattr(knobs, name) is not None:
            wanted[name] = getattr(knobs, name)
    if knobs.task == "train" and hasattr(model, _CHECKPOINTING):
        wanted["activation_checkpointing"] = knobs.activation_checkpointing
    return wanted


def actual(
    knobs: Knobs,
    *,
    device: Device,
    engine: Engine,
    model: torch.nn.Module,
    step: Step,
    proven: dict[str, JsonValue],
) -> dict[str, JsonValue]:
    """Return what runs. Call it after steps were made and outside any window.

    Args:
        knobs: Only tells which settings have a counterpart to look at.
        device: Where it runs.
        engine: Who drives it.
        model: The model as it lies on the device, without wrappers.
        step: The step that ran.
        proven: What the device proved by computing (`Device.prove`).
    """
    found: dict[str, JsonValue] = {
        "task": "train" if isinstance(step, TrainStep) else "infer",
        "precision": _precision(device, knobs, model, proven),
        "batch_size": min(step.batch_sizes) if len(step.batch_sizes) == 1 else None,
        "image_size": min(step.image_sizes) if len(step.image_sizes) == 1 else None,
        "channels_last": _is_channels_last(model, knobs),
        "parameters": engine.count(model),
        "parameter_types": ", ".join(
            sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
        ),
    }
    found["own_memory"] = device.own_memory
    found |= float8.describe(model)
    found |= _compilation(step)
    found |= engine.describe_actual()
    found |= device.describe()
    if isinstance(step, TrainStep):
        found |= optimizers.describe_actual(step.optimizer)
        asked_for = step.counter.updates + (step.skipped_updates() or 0)
        found["gradient_accumulation"] = step.micro_batches // asked_for if asked_for else None
        found["global_batch"] = _global_batch(found)
        # Null where the model does not tell: unknown is not what was asked for.
        told = getattr(model, _CHECKPOINTING, None)
        found["activation_checkpointing"] = None if told is None else bool(told)
    return found | {k: v for k, v in proven.items() if k not in found}


def _global_batch(found: dict[str, JsonValue]) -> int | None:
    """Return the samples of all devices in one update; null: a factor of it is not known."""
    product = 1
    for name in ("batch_size", "processes", "spmd.devices", "gradient_accumulation"):
        factor = found.get(name, 1) if name == "spmd.devices" else found.get(name)
        if not isinstance(factor, int):
            return None
        product *= factor
    return product


def _precision(
    device: Device, knobs: Knobs, model: torch.nn.Module, proven: dict[str, JsonValue]
) -> str | None:
    if "precision" in proven:
        return str(proven["precision"])
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if types == {torch.bfloat16}:
        return "bf16"
    if types != {torch.float32}:
        return None
    with device.autocast(knobs):
        square = torch.ones((8, 8), device=device.torch_device)
        product = square @ square
    if (converted := float8.precision_of(model)) is not None:
        return converted if product.dtype == torch.bfloat16 else None
    if product.dtype == torch.float32:
        return device.float32_format()
    return {torch.bfloat16: "amp-bf16", torch.float16: "amp-fp16"}.get(product.dtype)


def _compilation(step: Step) -> dict[str, JsonValue]:
    """Return the backend that dynamo hands its graphs to, and its mode where it has modes."""
    compiled: Any = step.module
    # The wrapper alone proves nothing: dynamo may have given every frame back to Python.
    frames = torch._dynamo.utils.counters["frames"]["ok"]
    if not isinstance(compiled, torch._dynamo.OptimizedModule) or frames == 0:
        return {"compile": "none"}
    backend: Any = compiled.dynamo_ctx.callback
    while hasattr(backend, "_torchdynamo_orig_backend"):
        backend = backend._torchdynamo_orig_backend
    name = str(getattr(backend, "compiler_name", type(backend).__name__))
    if name != "inductor":
        return {"compile": name}
    return {"compile": name, "compile_mode": _inductor_mode(backend)}


def _inductor_mode(backend: Any) -> str | None:
    """Return the mode whose options the compiler was given; null: no mode has just these."""
    modes: dict[str, dict[str, Any]] = torch._inductor.list_mode_options(dynamic=backend.dynamic)
    return next((mode for mode, options in modes.items() if options == backend.config), None)


def _is_channels_last(model: torch.nn.Module, knobs: Knobs) -> bool:
    images = [p for p in model.parameters() if p.dim() == 4]  # noqa: PLR2004 - NCHW
    if not images:
        return knobs.channels_last
    return any(
        p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in images
    )
