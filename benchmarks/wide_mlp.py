"""The model of ladder_clock.py, which keeps a device busy while its host waits: a factory."""

from __future__ import annotations

import torch

_WIDTH = 1024
_CLASSES = 10


def build() -> torch.nn.Module:
    """Return a few wide products over images of 3 x 32 x 32."""
    hidden = [torch.nn.Linear(_WIDTH, _WIDTH) for _ in range(3)]
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(3 * 32 * 32, _WIDTH),
        *hidden,
        torch.nn.Linear(_WIDTH, _CLASSES),
    )
