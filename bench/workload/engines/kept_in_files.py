"""What ZeRO's third stage really keeps in files: looked for on the drive, and missed in memory.

DeepSpeed takes `nvme` and leaves in memory what is small (under 1 MiB on a rank, or the block of
its files where that is larger), so each tensor is looked at by itself: it counts as kept in a file
where that file is as large as the tensor and the tensor holds no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from bench.backends.base import Unsupported

_PLACEHOLDER = 1
"""Numbers that stand in memory for a part of a weight that is in a file."""


@dataclass(frozen=True)
class Kept:
    """Where the parts of one kind are, on this rank."""

    file_bytes: int
    memory_bytes: int
    large_in_memory: int
    """Parts that are large enough for a file, and are in memory nevertheless."""

    @property
    def in_files(self) -> bool:
        """Whether all that DeepSpeed writes to files is there."""
        return self.file_bytes > 0 and self.large_in_memory == 0


def weights(zero: Any) -> Kept:
    """Return where the parts of the trainable weights are.

    Args:
        zero: DeepSpeed's optimizer of stage 3, which keeps weights in files.
    """
    swapper = _trained(zero)[0].nvme_swapper
    found = []
    for parameter in _trained(zero):
        size = _part_bytes(parameter)
        path = swapper.id_to_path.get(parameter.ds_id)
        absent = is_in_file(parameter) and parameter.ds_tensor.numel() <= _PLACEHOLDER
        found.append((size, absent and _holds(path, size)))
    return _summed(found, swapper.min_aio_bytes)


def optimizer_state(zero: Any) -> Kept:
    """Return where the weights that are updated are, and what the optimizer keeps beside them.

    Args:
        zero: DeepSpeed's optimizer of stage 3, which keeps them in files.
    """
    swapper = zero.optimizer_swapper
    found = []
    for weight in zero.fp32_partitioned_groups_flat:
        info = swapper.swap_params_info.get(weight.ds_id)
        contexts = [] if info is None else info.tensors
        for context in contexts:
            size = info.numel() * weight.element_size()
            absent = context.compute_tensor.numel() == 0
            found.append((size, absent and _holds(context.swap_path, size)))
        swapped = {id(context.compute_tensor) for context in contexts}
        found += [
            (tensor.numel() * tensor.element_size(), False)
            for tensor in _tensors(zero.optimizer, weight)
            if id(tensor) not in swapped
        ]
    return _summed(found, swapper.min_aio_bytes)


def is_in_file(parameter: torch.Tensor) -> bool:
    """Return whether this rank's part of a weight is in a file now, and not in memory."""
    part = getattr(parameter, "ds_tensor", None)
    return part is not None and part.status.name == "NOT_AVAILABLE"


def refuse_what_is_too_small(zero: Any) -> None:
    """See to it that something is large enough for a file, where that was asked for.

    Args:
        zero: DeepSpeed's optimizer, before any update.

    Raises:
        Unsupported: all is too small.
    """
    if has_weights(zero):
        least = _trained(zero)[0].nvme_swapper.min_aio_bytes
        if max(map(_part_bytes, _trained(zero))) < least:
            raise _too_small("offload_param", "part of a weight", least)
    if has_state(zero):
        swapper = zero.optimizer_swapper
        largest = max(zero.fp16_partitioned_groups_flat_numel) * swapper.swap_element_size
        if largest < swapper.min_aio_bytes:
            raise _too_small("offload_optimizer", "group of weights", swapper.min_aio_bytes)


def has_weights(zero: Any) -> bool:
    """Return whether DeepSpeed says that it keeps weights in files."""
    return bool(getattr(zero, "params_in_nvme_and_cpu", False))


def has_state(zero: Any) -> bool:
    """Return whether DeepSpeed says that it keeps the optimizer's state in files."""
    return bool(getattr(zero, "swap_optimizer", False))


def read_once(module: torch.nn.Module) -> None:
    """Have a weight read once where DeepSpeed, reading ahead, asks for it twice at a time.

    It does where two uses of a weight are near, as in the last block, and refuses itself then.

    Args:
        module: Its weights are kept in files already.
    """
    swapper: Any = next(module.parameters()).nvme_swapper  # type: ignore[attr-defined]
    read = swapper.swap_in

    def once(parameters: list[Any], *arguments: Any, **options: Any) -> None:
        read(list(dict.fromkeys(parameters)), *arguments, **options)

    swapper.swap_in = once


def describe(zero: Any) -> dict[str, JsonValue]:
    """Return what a rank keeps in files and in memory, buffers for the files apart. Unit: bytes."""
    found: dict[str, JsonValue] = {}
    if has_weights(zero):
        kept = weights(zero)
        found |= {
            "zero.param_file_bytes": kept.file_bytes,
            "zero.param_memory_bytes": kept.memory_bytes,
            "zero.param_buffer_bytes": _trained(zero)[0].nvme_swapper.buffers.nbytes,
        }
    if has_state(zero):
        kept, buffers = optimizer_state(zero), zero.optimizer_swapper.swap_buffer_manager
        found |= {
            "zero.optimizer_file_bytes": kept.file_bytes,
            "zero.optimizer_memory_bytes": kept.memory_bytes,
            "zero.optimizer_buffer_bytes": sum(b.nbytes for b in buffers.all_buffers),
        }
    return found


def _trained(zero: Any) -> list[Any]:
    return [parameter for group in zero.fp16_groups for parameter in group]


def _part_bytes(parameter: Any) -> int:
    """Return the size of this rank's part of a weight, wherever it is."""
    return int(parameter.ds_tensor.ds_numel) * int(parameter.element_size())


def _too_small(knob: str, what: str, least_bytes: int) -> Unsupported:
    return Unsupported(
        f"zero.{knob}",
        "nvme",
        f"DeepSpeed writes to files what has {least_bytes / 2**20:g} MiB or more on a "
        f"rank, and no {what} has that much here: take a wider model, fewer processes, or cpu",
    )


def _tensors(optimizer: torch.optim.Optimizer, weight: torch.Tensor) -> Iterator[torch.Tensor]:
    yield weight
    state: dict[str, Any] = optimizer.state.get(weight, {})
    yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def _holds(path: str | None, size: int) -> bool:
    """Return whether a file is as large as what it is for; it may be longer, to be aligned."""
    return path is not None and Path(path).is_file() and Path(path).stat().st_size >= size


def _summed(found: list[tuple[int, bool]], least_bytes: int) -> Kept:
    return Kept(
        file_bytes=sum(size for size, in_file in found if in_file),
        memory_bytes=sum(size for size, in_file in found if not in_file),
        large_in_memory=sum(size >= least_bytes for size, in_file in found if not in_file),
    )
