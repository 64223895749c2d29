"""Tensors of which each rank holds a part, as torch's DTensor: this part, and all of it.

Before they are shared out, all ranks are given the same.
"""

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


def give_out(module: torch.nn.Module) -> None:
    """Give all ranks the parameters and buffers of the first one. Every rank must ask at once."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.numel():
                given = tensor.contiguous()
                # As bytes, since no backend carries every type.
                dist.broadcast(given.view(-1).view(torch.uint8), src=0)
                tensor.copy_(given)


def over_ranks(parts: Sequence[torch.Tensor], device_type: str) -> list[torch.Tensor]:
    """Return the sums of these scalars over the ranks, which exchange on such devices."""
    if not parts:
        return []
    total = torch.stack([part.to(device_type) for part in parts])
    dist.all_reduce(total)
    return list(total)
