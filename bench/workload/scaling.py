"""Scaling the loss of fp16, whose smallest numbers are larger than many gradients.

The scaled gradients of an update may overflow. torch's scaler then leaves the weights as they are
and lowers the scale: the update is skipped. It was paid for, and trained nothing.
"""

from __future__ import annotations

import torch


class LossScaling:
    """Torch's own scaler, and how many updates it was asked for.

    Args:
        device_type: Of the weights: cuda or cpu.
    """

    def __init__(self, device_type: str) -> None:
        self._scaler = torch.amp.GradScaler(device_type)
        self.asked = 0
        """Updates, skipped ones included."""

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """Return the loss times the scale, to go backward from."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale now, for somebody who looks at them before `step`.

        A fused optimizer divides in its own kernel otherwise.
        """
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update, or skip the update, and adapt the scale.

        The host waits for the device in it, to learn which, unless the optimizer is fused.
        """
        self._scaler.step(optimizer)
        self._scaler.update()
        self.asked += 1
