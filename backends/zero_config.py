"""The configuration that DeepSpeed reads: what a case means, and what the user's own file adds.

A file may set what changes DeepSpeed's speed and nothing else: those keys are listed here. A key
that says something else than the case is refused by name, as is every other, since DeepSpeed takes
one that is misspelt, or of another stage, and does nothing about it. `auto`, which other programs
fill in, is the case's own.
Torch-free: the plan looks whether the two agree, and the ranks make the configuration.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import AUTOCAST, Knobs

_OFFLOADS = ("offload_optimizer", "offload_param")
_PARTS = (1, 2, 3)
"""Stages that share something out over the ranks."""
_FLAT = (1, 2)
"""Those that lay weights out in flat buffers."""
_THIRD = (3,)
_PERFORMANCE: dict[str, tuple[int, ...]] = {
    "aio.block_size": _THIRD,
    "aio.intra_op_parallelism": _THIRD,
    "aio.overlap_events": _THIRD,
    "aio.queue_depth": _THIRD,
    "aio.single_submit": _THIRD,
    "steps_per_print": (0, *_PARTS),
    "zero_optimization.allgather_bucket_size": _FLAT,
    "zero_optimization.compute_grad_norm": _FLAT,
    "zero_optimization.contiguous_gradients": _PARTS,
    "zero_optimization.offload_optimizer.buffer_count": _THIRD,
    "zero_optimization.offload_optimizer.pin_memory": _PARTS,
    "zero_optimization.offload_param.buffer_count": _THIRD,
    "zero_optimization.offload_param.buffer_size": _THIRD,
    "zero_optimization.offload_param.pin_memory": _THIRD,
    "zero_optimization.overlap_comm": _PARTS,
    "zero_optimization.parameter_alignment": _FLAT,
    "zero_optimization.reduce_bucket_size": _PARTS,
    "zero_optimization.reduce_scatter": _PARTS,
    "zero_optimization.round_robin_gradients": _FLAT,
    "zero_optimization.stage3_allgather_sequential": _THIRD,
    "zero_optimization.stage3_max_live_parameters": _THIRD,
    "zero_optimization.stage3_max_reuse_distance": _THIRD,
    "zero_optimization.stage3_model_persistence_threshold": _THIRD,
    "zero_optimization.stage3_module_granularity_threshold": _THIRD,
    "zero_optimization.stage3_param_persistence_threshold": _THIRD,
    "zero_optimization.stage3_prefetch_bucket_size": _THIRD,
    "zero_optimization.stage3_use_all_reduce_for_fetch_params": _THIRD,
    "zero_optimization.sub_group_size": _THIRD,
    "zero_optimization.use_multi_rank_bucket_allreduce": _FLAT,
}
"""What is the user's to set, since it changes how fast the same is computed, with the stages at
which DeepSpeed (0.19.8) reads it. Numbers, or yes and no."""
_BUFFERS = ("buffer_count", "buffer_size")
"""Settings of an offload that are read where it writes files."""
_NORM = "zero_optimization.compute_grad_norm"
_SECTIONS = {
    key[:at] for key in _PERFORMANCE for at, character in enumerate(key) if character == "."
} | {"timers", "timers.throughput", "torch_autocast"}
"""Keys that hold others."""
_KNOBS = {
    "aio": "zero.offload_optimizer or zero.offload_param to nvme",
    "gradient_accumulation_steps": "gradient_accumulation",
    "torch_autocast": "precision",
    "torch_autocast.dtype": "precision",
    "torch_autocast.enabled": "precision",
    "train_batch_size": "batch_size, gradient_accumulation or processes",
    "train_micro_batch_size_per_gpu": "batch_size",
    "zero_optimization.offload_optimizer": "zero.offload_optimizer",
    "zero_optimization.offload_optimizer.device": "zero.offload_optimizer",
    "zero_optimization.offload_optimizer.nvme_path": "zero.nvme_path",
    "zero_optimization.offload_param": "zero.offload_param",
    "zero_optimization.offload_param.device": "zero.offload_param",
    "zero_optimization.offload_param.nvme_path": "zero.nvme_path",
    "zero_optimization.stage": "zero.stage",
}
"""What to change instead, by key."""
_PIPELINED = (
    "remove it: DeepSpeed then leaves the optimizer's tensors in its buffers, and nothing shows "
    "that they have left memory"
)
_OTHERWISE = {
    "amp": "set precision",
    "autotuning": "sweep the knobs instead",
    "bf16": "set precision",
    "compile": "set compile",
    "elasticity": "set processes",
    "fp16": "set precision",
    "optimizer": "set optimizer, learning_rate, weight_decay and momentum",
    "scheduler": "remove it: the learning rate is constant",
    "zero_optimization.allgather_partitions": "remove it: DeepSpeed reads it nowhere",
    "zero_optimization.offload_optimizer.fast_init": "remove it: it has not been tried",
    "zero_optimization.offload_optimizer.pipeline_read": _PIPELINED,
    "zero_optimization.offload_optimizer.pipeline_write": _PIPELINED,
}
"""What trains otherwise than the knobs say, or cannot be shown to, and what to do about each."""
_AUTO = "auto"
_OFF = (
    "dump_state",
    "memory_breakdown",
    "prescale_gradients",
    "wall_clock_breakdown",
    "zero_optimization.offload_optimizer.fast_init",
    "zero_optimization.offload_optimizer.pipeline_read",
    "zero_optimization.offload_optimizer.pipeline_write",
)
"""Keys that switch nothing on where they are false, as usual files have them."""


def configuration(
    knobs: Knobs,
    users: Mapping[str, Any],
    place: str,
    *,
    page_locked: bool = False,
    swap_folder: Path | None = None,
) -> dict[str, Any]:
    """Return the configuration of a case, with the user's own merged in.

    DeepSpeed clips gradients to 1 where nothing is said of it, and stops the device's queue at
    every step to log a throughput of its own. Where weights are to be kept in files it keeps the
    first 1e9 of a rank in memory all the same, and does not let go of one that is used again within
    1e9 others, for which its few buffers are not enough. All of it is written out.

    Args:
        knobs: Of the case.
        users: What the user's file says; empty: there is none.
        place: Which file this is, for messages.
        page_locked: Page-lock what is kept in the host's memory.
        swap_folder: Where files are kept; null: nowhere yet.

    Raises:
        ScenarioError: the file contradicts the case, or says what nobody honours.
    """
    zero: dict[str, Any] = {"stage": knobs.zero.stage}
    for name in _OFFLOADS:
        where = getattr(knobs.zero, name)
        if where != "none":
            zero[name] = {"device": where, "pin_memory": page_locked}
        if where == "nvme":
            zero[name]["nvme_path"] = str(swap_folder)
    if knobs.zero.offload_param == "nvme":
        zero["offload_param"]["max_in_cpu"] = 0
        zero["stage3_max_reuse_distance"] = 0
    found: dict[str, Any] = {
        "train_batch_size": knobs.batch_size * knobs.gradient_accumulation * knobs.processes,
        "train_micro_batch_size_per_gpu": knobs.batch_size,
        "gradient_accumulation_steps": knobs.gradient_accumulation,
        "gradient_clipping": 0.0,
        "gradient_allreduce_op": "mean",
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
    }
    if knobs.zero.uses_nvme:
        found["aio"] = {}
    if cast := AUTOCAST.get(knobs.precision):
        # An empty list of modules: gradients are exchanged in float32, as under every engine.
        found["torch_autocast"] = {
            "enabled": True,
            "dtype": cast,
            "lower_precision_safe_modules": [],
        }
    _merge(found, _said(users), place, knobs)
    return found


def _said(users: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return what a file says, without what it leaves to others and the sections that are off."""
    found: dict[str, Any] = {}
    for name, value in users.items():
        key = f"{above}{name}"
        if value == _AUTO or (key in _OFF and not value):
            continue
        if not isinstance(value, dict):
            found[name] = value
            continue
        inner = _said(value, f"{key}.")
        off = value.get("enabled") in (False, _AUTO) and key not in _SECTIONS
        if not off and (inner or not value):
            found[name] = inner
    return found


def _merge(
    own: dict[str, Any], users: Mapping[str, Any], place: str, knobs: Knobs, above: str = ""
) -> None:
    for name, value in users.items():
        key = f"{above}{name}"
        if name in own and own[name] == value:
            continue
        if name not in own and _says_none(key, value):
            continue
        if isinstance(value, dict) and isinstance(own.get(name), dict):
            _merge(own[name], value, place, knobs, f"{key}.")
        elif key in _PERFORMANCE:
            own[name] = _setting(key, value, place, knobs)
        elif name in own or key in _KNOBS:
            message = f"contradicts the case, for which it is {json.dumps(own.get(name))}"
            remedy = f"remove it, or change {_KNOBS[key]}" if key in _KNOBS else "remove it"
            raise ScenarioError(place, f"{key}={json.dumps(value)} {message}", remedy)
        else:
            raise ScenarioError(place, f"{key} is not honoured", _remedy(key))


def _setting(key: str, value: Any, place: str, knobs: Knobs) -> Any:
    if not isinstance(value, bool | int | float):
        message = f"{key}={json.dumps(value)} is not a number, nor true or false"
        raise ScenarioError(place, message, "correct it")
    _refuse_what_does_nothing(key, value, place, knobs)
    return value


def _refuse_what_does_nothing(key: str, value: Any, place: str, knobs: Knobs) -> None:
    stage, stages = knobs.zero.stage, _PERFORMANCE[key]
    offloads = knobs.zero.offload_optimizer != "none"
    if key == _NORM and not value and (offloads or stage not in stages):
        message = f"DeepSpeed takes {key}=false at stages 1 and 2 alone, and offloads nothing then"
        remedy = "remove it, or set zero.stage to 1 or 2 and zero.offload_optimizer=none"
        raise ScenarioError(place, message, remedy)
    if stage not in stages:
        message = f"{key} does nothing at zero.stage={stage}"
        remedy = f"remove it, or set zero.stage={' or '.join(map(str, stages))}"
        raise ScenarioError(place, message, remedy)
    section, _, name = key.removeprefix("zero_optimization.").rpartition(".")
    if name in _BUFFERS and getattr(knobs.zero, section) != "nvme":
        message = f"{key} does nothing where nothing is kept in files"
        raise ScenarioError(place, message, f"remove it, or set zero.{section}=nvme")


def _remedy(key: str) -> str:
    if key in _OTHERWISE:
        return _OTHERWISE[key]
    near = difflib.get_close_matches(key, [*_PERFORMANCE, *_KNOBS], n=1)
    return f"did you mean {near[0]}?" if near else "remove it"


def _says_none(key: str, value: Any) -> bool:
    """Return whether a section asks for what a case without it has."""
    if key == "torch_autocast":
        return isinstance(value, dict) and value.get("enabled") is False
    if key.removeprefix("zero_optimization.") in _OFFLOADS:
        return value is None or (isinstance(value, dict) and value.get("device", "none") == "none")
    return False
