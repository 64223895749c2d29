"""Building the optimizer a case names, and counting its updates independently of the loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import JsonValue

from bench.backends.base import Unsupported
from bench.scenarios.schema import Knobs

_CLASSES: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
_IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "auto": {},
    "for-loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"foreach": True, "capturable": True},
}


def build(knobs: Knobs, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Build the optimizer over the trainable parameters.

    Raises:
        Unsupported: torch refuses the implementation on this device.
    """
    if knobs.optimizer is None or knobs.optimizer_impl is None:
        raise ValueError("a training case has an optimizer: the schema fills it")
    arguments: dict[str, Any] = {"lr": knobs.learning_rate, "weight_decay": knobs.weight_decay}
    if knobs.momentum is not None:
        arguments["momentum"] = knobs.momentum
    arguments |= _IMPLEMENTATIONS[knobs.optimizer_impl]
    trainable = [p for p in parameters if p.requires_grad]
    if knobs.optimizer_impl == "fused":
        _try_fused(_CLASSES[knobs.optimizer], arguments, trainable)
    return _CLASSES[knobs.optimizer](trainable, **arguments)


def _try_fused(
    rule: type[torch.optim.Optimizer],
    arguments: dict[str, Any],
    trainable: list[torch.nn.Parameter],
) -> None:
    """Update one number of each kind: torch looks for its kernel no sooner than that."""
    kinds = {(p.device, p.dtype) for p in trainable}
    for device, dtype in kinds:
        probe = torch.nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
        probe.grad = torch.zeros_like(probe)
        try:
            rule([probe], **arguments).step()
        except RuntimeError as error:
            raise Unsupported("optimizer_impl", "fused", str(error)) from error


class UpdateCounter:
    """Counts updates through the optimizer's own hook, apart from the loop that asks for them.

    Args:
        optimizer: Torch's own.
        calls_per_update: How often an update calls it.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, calls_per_update: int = 1) -> None:
        self._calls_per_update = calls_per_update
        self._calls = 0
        self._skipped: torch.Tensor | None = None
        optimizer.register_step_post_hook(self._count)

    @property
    def updates(self) -> int:
        """Updates so far. Waits for the device where the optimizer skips some by itself."""
        calls = self._calls // self._calls_per_update
        return calls - (0 if self._skipped is None else int(self._skipped.cpu()))

    def _count(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._calls += 1
        # A fused kernel is called whatever the loss scaler found, and skips the update itself. What
        # was found stays on the device: reading it would wait for the step.
        overflowed = getattr(optimizer, "found_inf", None)
        if isinstance(overflowed, torch.Tensor):
            if self._skipped is None:
                self._skipped = torch.zeros_like(overflowed)
            self._skipped += overflowed


def describe_actual(optimizer: torch.optim.Optimizer) -> dict[str, JsonValue]:
    """Return the update rule and its implementation as the optimizer holds them.

    `auto` means that the optimizer holds no choice and torch makes its own at every update.
    """
    group = optimizer.param_groups[0]
    foreach, fused = group.get("foreach"), group.get("fused")
    if fused:
        implementation = "fused"
    elif group.get("capturable"):
        implementation = "capturable"
    elif foreach:
        implementation = "foreach"
    elif foreach is False:
        implementation = "for-loop"
    else:
        implementation = "auto"
    names: dict[type, str] = {cls: name for name, cls in _CLASSES.items()}
    return {
        "optimizer": names.get(type(optimizer), type(optimizer).__name__),
        "optimizer_impl": implementation,
        "learning_rate": float(group["lr"]),
        "weight_decay": float(group["weight_decay"]),
        "momentum": float(group["momentum"]) if "momentum" in group else None,
    }
