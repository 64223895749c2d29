"""FSDP2 without its collectives: each rank copies its own part to where the others' would come.

Gathering and adding are all that FSDP2 exchanges; what it copies before and after stays. A rank
then computes with its own part over and over, which takes as long.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

_ALL_GATHER, _REDUCE_SCATTER = "_all_gather_comm", "_reduce_scatter_comm"


class _Copied:
    """What stands in for a collective of a group; memory comes from where it would come from."""

    def __init__(self, replaced: Any) -> None:
        self._replaced = replaced

    def allocate(self, size: Sequence[int], **options: Any) -> torch.Tensor:
        found: torch.Tensor = self._replaced.allocate(size, **options)
        return found


class _Gathered(_Copied):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> None:
        # The own part lies in its place already.
        for rank, part in enumerate(output_tensor.chunk(group.size())):
            if rank != group.rank():
                part.copy_(input_tensor.view_as(part))


class _Added(_Copied):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        own = input_tensor.chunk(group.size())[group.rank()]
        output_tensor.copy_(own.view_as(output_tensor))


@contextlib.contextmanager
def without_exchange(groups: Iterable[Any]) -> Iterator[None]:
    """Replace the collectives of FSDP2's groups of parameters, as its `set_custom_...` do."""
    kept = [(g, getattr(g, _ALL_GATHER), getattr(g, _REDUCE_SCATTER)) for g in groups]
    for group, gather, add in kept:
        setattr(group, _ALL_GATHER, _Gathered(gather))
        setattr(group, _REDUCE_SCATTER, _Added(add))
    try:
        yield
    finally:
        for group, gather, add in kept:
            setattr(group, _ALL_GATHER, gather)
            setattr(group, _REDUCE_SCATTER, add)
