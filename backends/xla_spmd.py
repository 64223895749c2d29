"""XLA's SPMD: one process, one graph, whose work the compiler divides over all of its devices.

Imported inside workers only. Batches are sharded over a mesh of one axis as they are sent, weights
lie whole on every device, and the compiler adds the reduction of the gradients. On the host's
processors the devices are virtual: parts of one client, which share its threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.distributed.spmd as xs
import torch_xla.runtime as xr
from pydantic import JsonValue

from bench.backends.base import Unsupported
from bench.backends.mesh import MeshDevice, Share
from bench.backends.xla_device import XlaDevice
from bench.scenarios.schema import Knobs

_AXIS = "batch"


class SpmdDevice(XlaDevice, MeshDevice):
    """All XLA devices of the process.

    Raises:
        Unsupported: it has another number of them than the case asks for.
    """

    def __init__(self, knobs: Knobs) -> None:
        # Before the first tensor, which would else be on one device.
        xr.use_spmd()
        count = xr.global_runtime_device_count()
        if count != knobs.spmd.devices:
            raise Unsupported(
                "spmd.devices",
                knobs.spmd.devices,
                f"SPMD divides the work over all devices of a process, and this one has {count}",
            )
        self._mesh = xs.Mesh(np.arange(count), (count,), (_AXIS,))
        self._sharding = _Sharding(self._mesh, _AXIS)
        self._fed: list[torch.Tensor] = []
        super().__init__(knobs)

    def feed(self, batches: Iterable[Any], knobs: Knobs) -> Iterator[Any]:
        """Send host batches with each sample to one device; spread those that lie there already."""
        resident = knobs.data.source == "device"
        return self._noting(super().feed(self._spread(batches) if resident else batches, knobs))

    def sent(self, number: float) -> torch.Tensor:
        """Return a number that was sent to every device, as a tensor of one.

        What is moved in torch's own way stays on the host until a graph needs it, and what lies in
        parts is put together by a graph when it is read.
        """
        return self._send(torch.tensor([number]), _Sharding(self._mesh, None))

    def input_sharding(self) -> Any:
        """Return how the device loader is to divide a batch."""
        return self._sharding

    def reduced(self) -> list[float]:
        """Return the all-reduce of index + 1, as each device has it, computed by one graph."""
        count = self._mesh.size()
        numbers = torch.arange(1.0, count + 1)
        held = self._send(numbers, self._sharding)
        own = xs.enable_manual_sharding(held, (_AXIS,), mesh=self._mesh).global_tensor
        # `xm.all_reduce` returns its input in a world of one process, however many its devices.
        total = torch_xla._XLAC._xla_spmd_all_reduce(xm.REDUCE_SUM, own, 1.0, [list(range(count))])
        shown = xs.disable_manual_sharding(total, (_AXIS,), numbers.shape, mesh=self._mesh)
        self.fence()
        return [float(number) for number in shown.global_tensor.cpu()]

    def shares(self) -> list[Share]:
        """Look at the parts of the last batch, device by device."""
        return [
            Share(whole=len(tensor), parts=tuple(len(part) for part in self.copies(tensor)))
            for tensor in self._fed
        ]

    def copies(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Fetch what each device holds; waits for it."""
        [parts] = torch_xla._XLAC._get_local_shards([tensor])
        return [part for part, _device in parts]

    def describe(self) -> dict[str, JsonValue]:
        """Return what an `XlaDevice` does, and which devices there are."""
        names = [str(found["name"]) for found in xr.global_runtime_device_attributes()]
        virtual = xr.device_type() == "CPU"
        return super().describe() | {"devices": ", ".join(names), "virtual_devices": virtual}

    def close(self) -> None:
        """Let the last batch go, then what an `XlaDevice` holds."""
        self._fed = []
        super().close()

    def _send(self, numbers: torch.Tensor, sharding: _Sharding) -> torch.Tensor:
        sent: list[torch.Tensor] = xm.send_cpu_data_to_device(
            [numbers], self.torch_device, sharding
        )
        return sent[0]

    def _noting(self, feed: Iterator[Any]) -> Iterator[Any]:
        for batch in feed:
            self._fed = [value for value in batch if isinstance(value, torch.Tensor)]
            yield batch

    def _spread(self, batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            for tensor in batch:
                if not torch_xla._XLAC._get_xla_sharding_spec(tensor):
                    xs.mark_sharding(tensor, self._mesh, self._sharding.axes(tensor))
            yield batch


class _Sharding:
    """Divides every tensor of a batch along its first dimension, or, without an axis, none.

    It stands where the device loader takes torch_xla's `ShardingSpec`, which is for tensors of one
    number of dimensions, and leaves the others, labels beside images, whole on every device.
    """

    minibatch = False

    def __init__(self, mesh: xs.Mesh, axis: str | None) -> None:
        self._mesh = mesh
        self._axis = axis
        self._specs: dict[int, Any] = {}

    def axes(self, tensor: torch.Tensor) -> tuple[str | None, ...]:
        """Return which axis of the mesh divides each dimension."""
        return (self._axis, *[None] * (tensor.dim() - 1))

    def xla_spec(self, tensor: torch.Tensor) -> Any:
        """Return torch_xla's own description of the sharding of one tensor."""
        if tensor.dim() not in self._specs:
            self._specs[tensor.dim()] = xs.ShardingSpec(self._mesh, self.axes(tensor))
        return self._specs[tensor.dim()].xla_spec(tensor)
