"""The buffers that DeepSpeed locks in memory for its files, and what a limit on them would end.

Where memory cannot be locked, DeepSpeed aborts the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from pydantic import JsonValue

from bench.backends import locked_memory
from bench.backends.base import Unsupported

_NVME = "nvme"


def needed_bytes(
    zero: dict[str, Any], weights: Iterable[torch.Tensor], ranks: int
) -> dict[str, int]:
    """Return what is locked on a rank at least, by knob.

    Args:
        zero: The section `zero_optimization` of DeepSpeed's configuration.
        weights: Those that are trained, whole.
        ranks: Over which they are shared out.
    """
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    weights = list(weights)
    number_bytes = max(weight.element_size() for weight in weights)
    config, found = DeepSpeedZeroConfig(**zero), {}
    if config.offload_param is not None and config.offload_param.device == _NVME:
        numbers = config.offload_param.buffer_count * config.offload_param.buffer_size
        found["zero.offload_param"] = numbers * number_bytes
    if config.offload_optimizer is not None and config.offload_optimizer.device == _NVME:
        part = sum(math.ceil(weight.numel() / ranks) for weight in weights)
        numbers = config.offload_optimizer.buffer_count * min(config.sub_group_size, part)
        found["zero.offload_optimizer"] = numbers * number_bytes
    return found


def refuse_what_cannot_be_locked(
    zero: dict[str, JsonValue], weights: Iterable[torch.Tensor], ranks: int
) -> None:
    """See to it that DeepSpeed's buffers can be locked, as `needed_bytes` counts them.

    Raises:
        Unsupported: this process may not lock as much.
    """
    needed = needed_bytes(zero, weights, ranks)
    size = sum(needed.values())
    limit = locked_memory.limit_below(size)
    if limit is not None:
        raise Unsupported(
            max(needed, key=lambda knob: needed[knob]),
            _NVME,
            f"DeepSpeed locks {size / 2**20:.0f} MiB of memory on a rank for its buffers, and this "
            f"process may lock {limit / 2**20:g} MiB (ulimit -l): raise that, or name smaller ones "
            "in zero.config (offload_param.buffer_size, sub_group_size)",
        )
