"""Models of a user that do not train, each in its own way, as `module:factory`."""

from __future__ import annotations

import torch


class Linear(torch.nn.Module):
    """One linear layer over flattened 3 x 4 x 4 images, with a fault in its output."""

    def __init__(self, good_calls: int = 1000, scale: float = 1.0) -> None:
        super().__init__()
        self.head = torch.nn.Linear(48, 10)
        self._good_calls = good_calls
        self._scale = scale
        self._calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self._calls += 1
        output: torch.Tensor = self.head(images.flatten(1)) * self._scale
        return output if self._calls <= self._good_calls else output * float("nan")


def healthy() -> torch.nn.Module:
    return Linear()


def nan_after(good_calls: int) -> torch.nn.Module:
    return Linear(good_calls=good_calls)


def blind() -> torch.nn.Module:
    """Return a model whose output does not depend on its weights."""
    return Linear(scale=0.0)
