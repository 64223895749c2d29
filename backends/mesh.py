"""A device that is several: those of one process, which share its batch (`engine=spmd`).

Worker side: an engine asks such a device how its batch and its weights really lie. It names no
device family; an adapter that can spread a process over its devices opens a device of this kind.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.backends.base import Device

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Share:
    """How the samples of one tensor of a batch lie on the devices."""

    whole: int
    """Samples in the batch."""
    parts: tuple[int, ...]
    """Samples that each device holds."""


class MeshDevice(Device):
    """All devices of the process, as one."""

    @abstractmethod
    def reduced(self) -> list[float]:
        """Return what each device gets of an all-reduce, to which it gives its index + 1."""

    @abstractmethod
    def shares(self) -> list[Share]:
        """Return how the tensors of the last batch that was fed lie; empty: none was."""

    @abstractmethod
    def copies(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return on the host what each device holds of a tensor, in the order of `shares`."""
