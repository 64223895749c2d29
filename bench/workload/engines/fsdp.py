"""Fully sharded data parallelism: torch's `fully_shard` (FSDP2), block by block.

Every rank holds a part of each parameter, of its gradient and of the optimizer's state. The blocks
that the model repeats are one unit each, whose parameters are gathered before it computes and
let go after; what is left is the unit of the whole model. Weights keep their type: autocast rounds
as it does in one process, and gradients are exchanged in the type of the weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from pydantic import JsonValue
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from bench.backends.base import Device, Unsupported
from bench.scenarios.schema import FsdpKnobs, Knobs
from bench.workload.engines import sharded
from bench.workload.engines.base import Engine, MakeOptimizer, Prepared
from bench.workload.engines.own_parts import without_exchange

_LEAST_REPEATED = 2


class FsdpEngine(Engine):
    """FSDP2 over an initialised default process group.

    Args:
        knobs: Of the case.
        device: Whether its memory is another than the host's decides if offloaded parts are
            page-locked.
    """

    shards_weights = True
    shards_updates = True

    def __init__(self, knobs: FsdpKnobs, device: Device) -> None:
        self._knobs = knobs
        self._device = device
        self._module: Any = None
        self._optimizer: torch.optim.Optimizer | None = None

    def prepare(self, module: torch.nn.Module, make_optimizer: MakeOptimizer | None) -> Prepared:
        """Shard the model in place, and build the optimizer over the parts.

        Raises:
            Unsupported: a parameter has no dimension that could be shared out.
        """
        for name, parameter in module.named_parameters():
            if parameter.dim() == 0:
                reason = f"FSDP2 shards no parameter that is a single number, as {name} is"
                raise Unsupported("engine", "fsdp", reason)
        mesh = init_device_mesh(next(module.parameters()).device.type, (dist.get_world_size(),))
        options: dict[str, Any] = {
            "mesh": mesh,
            "reshard_after_forward": self._knobs.reshard_after_forward,
            "offload_policy": self._offload_policy(),
        }
        # As DistributedDataParallel does. Each rank shards what it has built, and parts of models
        # that differ (a factory may draw without the seed) would be a model that nobody has built.
        sharded.give_out(module)
        for block in repeated_blocks(module):
            fully_shard(block, **options)
        fully_shard(module, **options)
        self._module = module
        self._optimizer = make_optimizer and make_optimizer(module.parameters())
        return module, self._optimizer

    @contextlib.contextmanager
    def accumulate(self) -> Iterator[None]:
        """Keep gradients whole and to this rank until the last micro-batch."""
        self._module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self._module.set_requires_gradient_sync(True)

    def unexchanged(self) -> contextlib.AbstractContextManager[object]:
        """Copy where ranks would gather weights and add gradients."""
        return without_exchange(_groups(self._module))

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this rank's shard."""
        return sharded.local(tensor)

    def whole(self, parameter: torch.Tensor) -> torch.Tensor:
        """Gather all shards."""
        return sharded.whole(parameter)

    def over_ranks(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Add the parts of all ranks."""
        return sharded.over_ranks(parts, self._device.torch_device.type)

    def asked(self, knobs: Knobs) -> dict[str, JsonValue]:
        """Return the settings of the group `fsdp` beside engine and world."""
        wanted = super().asked(knobs) | {"fsdp.offload": knobs.fsdp.offload}
        if knobs.fsdp.reshard_after_forward is not None:
            wanted["fsdp.reshard_after_forward"] = knobs.fsdp.reshard_after_forward
        return wanted

    def describe_actual(self) -> dict[str, JsonValue]:
        """Read back from the parameters how they are shared out, and where the parts lie."""
        return describe(self._module, self._optimizer)

    def _offload_policy(self) -> OffloadPolicy:
        if self._knobs.offload == "cpu":
            return CPUOffloadPolicy(pin_memory=self._device.own_memory is True)
        return OffloadPolicy()


def repeated_blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the blocks that a model repeats: the innermost lists of modules of one class.

    A list of layers without parts of their own (a linear layer, say) is none.
    """
    lists = [
        found
        for found in module.modules()
        if isinstance(found, torch.nn.ModuleList | torch.nn.Sequential) and _repeats(found)
    ]
    return [
        block
        for found in lists
        if not any(inner in set(found.modules()) - {found} for inner in lists)
        for block in found
    ]


def describe(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer | None
) -> dict[str, JsonValue]:
    """Return what FSDP2 made of a model; engine is plain where it is not sharded whole."""
    groups = list(_groups(module))
    # Of the model itself, the parameters may be gathered ones: what is not let go after a forward
    # pass stays so until a backward pass, and inference has none.
    parts: list[DTensor] = [param.sharded_param for group in groups for param in group.fsdp_params]
    shared_out = [p for p in parts if any(place.is_shard() for place in p.placements)]
    whole = isinstance(module, FSDPModule) and len(shared_out) == len(list(module.parameters()))
    meshes = {part.device_mesh.size() for part in parts}
    return {
        "engine": "fsdp" if whole and parts else "plain",
        "processes": meshes.pop() if len(meshes) == 1 else None,
        "fsdp.units": len(groups),
        "fsdp.placements": ", ".join(sorted({str(place) for p in parts for place in p.placements})),
        "fsdp.reshard_after_forward": _same(g.post_forward_mesh_info is not None for g in groups),
        "fsdp.offload": _offload(groups, parts, optimizer),
    }


def _offload(
    groups: list[Any], parts: Sequence[DTensor], optimizer: torch.optim.Optimizer | None
) -> str | None:
    """Return cpu where all parts and their state are kept on the host, none where no part is."""
    policies = {p.offload_to_cpu for group in groups for p in group.fsdp_params}
    if policies == {False}:
        return "none"
    if policies != {True}:
        return None
    state = [] if optimizer is None else list(optimizer.state.values())
    tensors = [*parts, *(t for kept in state for t in kept.values() if isinstance(t, DTensor))]
    lies_on = {sharded.local(tensor).device.type for tensor in tensors}
    return "cpu" if lies_on == {"cpu"} else None


def _repeats(found: torch.nn.ModuleList | torch.nn.Sequential) -> bool:
    children = list(found)
    return (
        len(children) >= _LEAST_REPEATED
        and len({type(child) for child in children}) == 1
        and all(list(child.children()) and list(child.parameters()) for child in children)
    )


def _groups(module: torch.nn.Module) -> Iterator[Any]:
    """Yield what FSDP2 gathers at once. torch 2.9 keeps one of a module, later ones a list."""
    for found in module.modules():
        if isinstance(found, FSDPModule):
            state: Any = found._get_fsdp_state()
            if hasattr(state, "_fsdp_param_groups"):
                yield from state._fsdp_param_groups
            elif state._fsdp_param_group is not None:
                yield state._fsdp_param_group


def _same(values: Iterator[bool]) -> bool | None:
    """Return the value that all share; null: they differ, or there is none."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
