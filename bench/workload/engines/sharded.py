"""Tensors of which each rank holds a part, as torch's DTensor: this part, and all of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this rank holds, as an ordinary tensor that shares its memory."""
    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        part: torch.Tensor = tensor.to_local()
    return part


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor on the device of its ranks. Every rank must ask at once."""
    if not isinstance(tensor, DTensor):
        return tensor.detach()
    mesh, part = tensor.device_mesh, local(tensor)
    if part.device.type != mesh.device_type:
        # Offloaded: the ranks exchange on their devices only.
        part = part.to(mesh.device_type)
    found = DTensor.from_local(
        part,
        mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )
    return found.full_tensor()


def over_ranks(parts: Sequence[torch.Tensor], device_type: str) -> list[torch.Tensor]:
    """Return the sums of these scalars over the ranks, which exchange on such devices."""
    if not parts:
        return []
    total = torch.stack([part.to(device_type) for part in parts])
    dist.all_reduce(total)
    return list(total)
