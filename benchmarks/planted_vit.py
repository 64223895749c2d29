"""The 3 ms ViT for aa.py, and the same with more work planted in its step: the user's own factory.

Where the environment says so, every n-th training step is done twice: a twin of the model makes a
whole step of its own, forward, backward and update. The scenario is the same, so the harness takes
both for the same work, as it does where a new version of a library is slower.
"""

from __future__ import annotations

import os
from typing import Any

import timm
import torch

VARIABLE = "PLANTED_EVERY"
"""How many steps for one that is done twice: 20 is 5 % more work. Unset: none is."""


class WithTwin(torch.nn.Module):
    """A model whose every n-th training step costs two.

    Args:
        model: The model, which is what trains.
        twin: A model of its own, which nobody else knows of.
        every: n.
    """

    def __init__(self, model: torch.nn.Module, twin: torch.nn.Module, every: int) -> None:
        super().__init__()
        self.model = model
        self._every = every
        self._steps = 0
        # In a tuple, the twin is no part of this module: nobody else updates or counts it.
        self._twin = (twin, torch.optim.AdamW(twin.parameters(), lr=1e-3, weight_decay=0.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the model's logits."""
        if self.training:
            self._steps += 1
            if self._steps % self._every == 0:
                self._step_of_the_twin(images)
        logits: torch.Tensor = self.model(images)
        return logits

    def _step_of_the_twin(self, images: torch.Tensor) -> None:
        twin, optimizer = self._twin
        logits = twin(images)
        labels = torch.zeros(len(images), dtype=torch.long)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def build(name: str, classes: int, **arguments: Any) -> torch.nn.Module:
    """Return the model, with a twin where the environment asks for one."""
    every = os.environ.get(VARIABLE)
    model: torch.nn.Module = timm.create_model(name, num_classes=classes, **arguments)
    if every is None:
        return model
    return WithTwin(model, timm.create_model(name, num_classes=classes, **arguments), int(every))
