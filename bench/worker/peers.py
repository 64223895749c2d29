"""The ranks of a launch: joining them, proving that their collectives are real, and agreeing.

The control plane is gloo on host tensors, whatever carries the gradients.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from bench.backends import host
from bench.backends.base import Device, World
from bench.backends.mesh import MeshDevice
from bench.measure.target import ALONE, Peers
from bench.scenarios.schema import Knobs
from bench.worker.errors import CollectivesNotRealError
from bench.worker.job import MEETING_VARIABLE, RENDEZVOUS_FILE

_JOIN_TIMEOUT = datetime.timedelta(minutes=10)


def meet(world: World, device: Device, folder: Path, knobs: Knobs) -> tuple[Peers, str | None]:
    """Return the other ranks, joined, and the evidence that collectives over them are real.

    A single rank of an engine that exchanges gradients forms a group of one. Where the devices of
    one process do, there is nobody to join.

    Raises:
        CollectivesNotRealError: they are not.
    """
    if world.size == 1 and knobs.engine == "plain":
        return ALONE, None
    if isinstance(device, MeshDevice):
        return ALONE, prove_mesh(device, knobs.devices_per_process)
    join(world, device, folder)
    evidence = prove_collectives(world, device)
    return DistPeers(world, device), evidence


def join(world: World, device: Device, folder: Path) -> None:
    """Initialise the default process group: by a file of ours, or where the launcher says."""
    if device.process_group is None:
        raise CollectivesNotRealError(f"the device {device.torch_device} has no process group")
    where = os.environ.get(MEETING_VARIABLE, f"file://{folder / RENDEZVOUS_FILE}")
    dist.init_process_group(
        device.process_group,
        init_method=where,
        rank=world.rank,
        world_size=world.size,
        timeout=_JOIN_TIMEOUT,
    )


class Where(NamedTuple):
    """Over what the ranks of a launch are spread; null: no rank can tell."""

    nodes: int | None
    """Machines, or what stands for them in a test."""
    machines: int | None


class DistPeers:
    """Decisions of all ranks, over a gloo group of host tensors."""

    def __init__(self, world: World, device: Device) -> None:
        self._world = world
        shared = device.process_group == "gloo"
        self._group: Any = None if shared else dist.new_group(backend="gloo")

    def any(self, flag: bool) -> bool:
        """Return whether any rank raises the flag."""
        return self.most(1.0 if flag else 0.0) > 0

    def most(self, value: float) -> float:
        """Return the largest value over the ranks."""
        tensor = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group)
        return float(tensor[0])

    def barrier(self) -> None:
        """Wait for all ranks."""
        # An all-reduce, since gloo's own barrier does not time out on a lost peer as quickly.
        self.most(0.0)

    def where(self) -> Where:
        """Return over how many machines the ranks are spread."""
        told: list[tuple[str | None, int]] = [(None, 0)] * self._world.size
        dist.all_gather_object(told, (host.boot_id(), self._world.node), group=self._group)
        machines = {machine for machine, _ in told}
        if None in machines:
            return Where(None, None)
        nodes = len(set(told)) if host.nodes_stand_in() else len(machines)
        return Where(nodes, len(machines))

    def gather(self, item: Any) -> list[Any] | None:
        """Return every rank's item on rank 0, in rank order; null elsewhere."""
        items: list[Any] | None = [None] * self._world.size if self._world.rank == 0 else None
        dist.gather_object(item, items, dst=0, group=self._group)
        return items


def prove_collectives(world: World, device: Device) -> str:
    """Check on the device's own process group that an all-reduce adds over all ranks.

    Returns:
        The evidence, in words.

    Raises:
        CollectivesNotRealError: the world or the sum is not what it must be.
    """
    size = dist.get_world_size()
    tensor = torch.full((1,), float(world.rank + 1), device=device.torch_device)
    dist.all_reduce(tensor)
    device.fence()
    expected = world.size * (world.size + 1) / 2
    found = float(tensor.cpu()[0])
    evidence = f"world {size} of {world.size}, all-reduce of rank + 1 gives {found:g}"
    if size != world.size or found != expected:
        raise CollectivesNotRealError(f"{evidence}, expected {expected:g}")
    return evidence


def prove_mesh(device: MeshDevice, devices: int) -> str:
    """Check that an all-reduce adds over all devices of this process.

    Returns:
        The evidence, in words.

    Raises:
        CollectivesNotRealError: their number or the sum on one of them is not what it must be.
    """
    found, expected = device.reduced(), devices * (devices + 1) / 2
    sums = ", ".join(f"{number:g}" for number in found)
    evidence = f"{len(found)} of {devices} devices, all-reduce of index + 1 gives {sums}"
    if found != [expected] * devices:
        raise CollectivesNotRealError(f"{evidence}, expected {expected:g} on each")
    return evidence
