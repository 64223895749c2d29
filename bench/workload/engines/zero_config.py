"""The configuration that DeepSpeed reads: what a case means, and what the user's own file adds.

A key of the user's that says something else than the case is refused by name, as is a section that
would train otherwise than any knob says. `auto`, which other programs fill in, is the case's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.backends.base import World
from bench.scenarios.schema import FLOAT8, Knobs
from bench.workload.errors import BadCase

AUTOCAST = {"amp-bf16": "bfloat16"} | dict.fromkeys(FLOAT8, "bfloat16")
"""What DeepSpeed is to cast to, by precision."""
_KNOBS = {
    "gradient_accumulation_steps": "gradient_accumulation",
    "torch_autocast": "precision",
    "torch_autocast.dtype": "precision",
    "torch_autocast.enabled": "precision",
    "train_batch_size": "batch_size, gradient_accumulation or processes",
    "train_micro_batch_size_per_gpu": "batch_size",
    "zero_optimization.offload_optimizer": "zero.offload_optimizer",
    "zero_optimization.offload_optimizer.device": "zero.offload_optimizer",
    "zero_optimization.offload_param": "zero.offload_param",
    "zero_optimization.offload_param.device": "zero.offload_param",
    "zero_optimization.stage": "zero.stage",
}
"""What to change instead, by key."""
_OTHERWISE = {
    "amp": "set precision",
    "autotuning": "sweep the knobs instead",
    "bf16": "set precision",
    "compile": "set compile",
    "compression_training": "remove it",
    "curriculum_learning": "remove it",
    "data_efficiency": "remove it",
    "data_types": "remove it",
    "elasticity": "set processes",
    "fp16": "set precision",
    "hybrid_engine": "remove it",
    "optimizer": "set optimizer, learning_rate, weight_decay and momentum",
    "pipeline": "remove it",
    "progressive_layer_drop": "remove it",
    "scheduler": "remove it: the learning rate is constant",
    "sequence_parallel_size": "remove it",
    "sparse_attention": "remove it",
    "tensor_parallel": "remove it",
}
"""Sections that train otherwise than the knobs say, and what to do about each."""
_FREE = (
    "steps_per_print",
    "timers.throughput.enabled",
    "timers.throughput.synchronized",
    "zero_optimization.offload_optimizer.pin_memory",
    "zero_optimization.offload_param.pin_memory",
)
"""Defaults of ours that are the user's to change."""


def configuration(knobs: Knobs, world: World, *, page_locked: bool) -> dict[str, Any]:
    """Return the configuration of a case, with the user's own file merged in.

    DeepSpeed clips gradients to 1 where nothing is said of it, and stops the device's queue at
    every step to log a throughput of its own: both are written out.

    Args:
        knobs: Of the case.
        world: Its size is that of the case.
        page_locked: Page-lock what is kept in the host's memory.

    Raises:
        BadCase: the user's file cannot be read, or contradicts the case.
    """
    zero: dict[str, Any] = {"stage": knobs.zero.stage}
    for name in ("offload_optimizer", "offload_param"):
        if getattr(knobs.zero, name) == "cpu":
            zero[name] = {"device": "cpu", "pin_memory": page_locked}
    found: dict[str, Any] = {
        "train_batch_size": knobs.batch_size * knobs.gradient_accumulation * world.size,
        "train_micro_batch_size_per_gpu": knobs.batch_size,
        "gradient_accumulation_steps": knobs.gradient_accumulation,
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
    }
    if cast := AUTOCAST.get(knobs.precision):
        # An empty list of modules: gradients are exchanged in float32, as under every engine.
        found["torch_autocast"] = {
            "enabled": True,
            "dtype": cast,
            "lower_precision_safe_modules": [],
        }
    if knobs.zero.config is not None:
        place = f"zero.config={knobs.zero.config}"
        _merge(found, _read(knobs.zero.config, place), place)
    return found


def _read(name: str, place: str) -> Mapping[str, Any]:
    try:
        found = json.loads(Path(name).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadCase(f"{place}: it cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadCase(f"{place}: it holds no keys and values")
    return found


def _merge(own: dict[str, Any], users: Mapping[str, Any], place: str, above: str = "") -> None:
    for name, value in users.items():
        key = f"{above}{name}"
        if value == "auto":
            continue
        if key in _OTHERWISE:
            raise BadCase(f"{place}: {key} is not honoured: {_OTHERWISE[key]}")
        if isinstance(value, dict) and isinstance(own.get(name), dict):
            _merge(own[name], value, place, f"{key}.")
        elif key in _FREE or (name not in own and key not in _KNOBS):
            own[name] = value
        elif own.get(name) != value and not (name.startswith("offload_") and _says_none(value)):
            remedy = f"remove it, or change {_KNOBS[key]}" if key in _KNOBS else "remove it"
            raise BadCase(
                f"{place}: {key}={json.dumps(value)} contradicts the case, for which it is "
                f"{json.dumps(own.get(name))}: {remedy}"
            )


def _says_none(value: Any) -> bool:
    """Return whether a section asks for no offloading."""
    return value is None or (isinstance(value, dict) and value.get("device", "none") == "none")
