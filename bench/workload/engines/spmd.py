"""One process whose devices share its batch: the compiler divides the work and adds up gradients.

The step is that of one device with a batch as large as those of all together, so nothing here
exchanges anything. What the engine is for is to look at how it really lies: the batch in parts, the
weights whole on every device.
"""

from __future__ import annotations

import torch
from pydantic import JsonValue

from bench.backends.base import Device
from bench.backends.mesh import MeshDevice
from bench.scenarios.schema import Knobs
from bench.workload.engines.replicated import PlainEngine


class SpmdEngine(PlainEngine):
    """The devices of one process.

    Args:
        device: All of them.
    """

    def __init__(self, device: Device) -> None:
        if not isinstance(device, MeshDevice):
            raise TypeError(f"engine=spmd on {device.torch_device}: its adapter refuses this")
        self._mesh = device

    def copies_agree(self, module: torch.nn.Module) -> bool | None:
        """Compare all weights, device by device, to the last bit."""
        agree = True
        for parameter in module.parameters():
            first, *others = self._mesh.copies(parameter.detach())
            agree = agree and all(torch.equal(first, other) for other in others)
        return agree

    def asked(self, knobs: Knobs) -> dict[str, JsonValue]:
        """Return how the batch is to lie on the devices, beside engine and world."""
        inputs = {"spmd.devices": knobs.spmd.devices, "spmd.inputs": "sharded"}
        return super().asked(knobs) | inputs

    def describe_actual(self) -> dict[str, JsonValue]:
        """Read back how the last batch lies; `batch_size` is what each device holds of it."""
        shares = self._mesh.shares()
        counts = {len(share.parts) for share in shares}
        sizes = {part for share in shares for part in share.parts}
        return {
            "engine": "spmd" if shares else "plain",
            "processes": 1,
            "spmd.devices": counts.pop() if len(counts) == 1 else None,
            "spmd.inputs": "sharded"
            if all(sum(share.parts) == share.whole for share in shares)
            else "replicated",
            "batch_size": sizes.pop() if len(sizes) == 1 else None,
        }
