"""Hugging Face's accelerate: what it makes of the model by itself, or by a configuration of yours.

It wraps the model in DistributedDataParallel, and its forward pass in an autocast. A configuration
was held against the case when that was planned (`bench.backends.accelerate_config`); of what may
stand there, one thing is to be done: the model of one process alone is not wrapped.

accelerate substitutes silently: it makes DDP of FSDP on a CPU, and fp32 of fp16. So what it has
made is read back from the module, and not from what it was told.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from pydantic import JsonValue

from bench.backends import accelerate_config, users_files
from bench.backends.base import Device, World
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import AUTOCAST, Knobs
from bench.workload.engines.base import Engine, MakeOptimizer, Prepared
from bench.workload.errors import BadCase

_NO_RANK = "-1"
"""The local rank by which accelerate knows a process that is not launched as one of several."""


class AccelerateEngine(Engine):
    """An Accelerator over an initialised default process group.

    Args:
        knobs: Of the case.
        world: This process's place.
        device: Whether it is the host decides what accelerate is told to run on.

    Raises:
        BadCase: the configuration cannot be read.
    """

    def __init__(self, knobs: Knobs, world: World, device: Device) -> None:
        self._config = _configured(knobs)
        self._mixed = accelerate_config.mixed_precision(knobs)
        self._world = world
        self._device = device
        self._accelerator: Any = None
        self._optimizer: Any = None
        self._module: Any = None

    def prepare(self, module: torch.nn.Module, make_optimizer: MakeOptimizer | None) -> Prepared:
        """Hand model and optimizer to a new Accelerator."""
        # With torch_xla installed it would use that, even where it is told to use the CPU.
        os.environ["USE_TORCH_XLA"] = "0"
        self._announce_the_place()
        from accelerate import Accelerator

        self._accelerator = Accelerator(
            mixed_precision=self._mixed, cpu=self._device.own_memory is False
        )
        if make_optimizer is None:
            self._module = self._accelerator.prepare(module)
            return self._module, None
        optimizer = make_optimizer(module.parameters())
        self._module, self._optimizer = self._accelerator.prepare(module, optimizer)
        return self._module, optimizer

    def accumulate(self) -> contextlib.AbstractContextManager[object]:
        """Return accelerate's no_sync: gradients stay local until the last micro-batch."""
        context: contextlib.AbstractContextManager[object]
        context = self._accelerator.no_sync(self._module)
        return context

    def unexchanged(self) -> contextlib.AbstractContextManager[object]:
        """Return accelerate's no_sync, which holds for updates as well."""
        return self.accumulate()

    def backward(self, loss: torch.Tensor) -> None:
        """Go backward through accelerate."""
        self._accelerator.backward(loss)

    def update(self, device: Device, optimizer: torch.optim.Optimizer) -> None:
        """Apply one update by accelerate's own optimizer, and forget its gradients."""
        self._optimizer.step()
        self._optimizer.zero_grad()

    def asked(self, knobs: Knobs) -> dict[str, JsonValue]:
        """Return what accelerate may substitute, beside engine and world."""
        return super().asked(knobs) | {
            "accelerate.wrapper": "none" if self._alone() else "ddp",
            "accelerate.autocast": AUTOCAST.get(knobs.precision, "none"),
        }

    def describe_actual(self) -> dict[str, JsonValue]:
        """Read back what the Accelerator has made of the model and of its forward pass."""
        accelerator = self._accelerator
        model = getattr(self._module, "module", self._module)
        if accelerator is None or model not in accelerator._models:
            return {"engine": "plain", "processes": torch.distributed.get_world_size()}
        wrapped = isinstance(self._module, torch.nn.parallel.DistributedDataParallel)
        return {
            "engine": "accelerate",
            "processes": accelerator.num_processes,
            "accelerate.distributed_type": str(accelerator.distributed_type.value),
            "accelerate.wrapper": "ddp" if wrapped else "none",
            "accelerate.autocast": _autocast_around(model.forward),
            "accelerate_config": dict(self._config),
        }

    def _alone(self) -> bool:
        return self._config.get("distributed_type") == accelerate_config.ALONE

    def _announce_the_place(self) -> None:
        """Say in the environment where this rank stands: accelerate looks there, and joins nobody.

        The group is formed already, so that the address is one that nobody goes to. Where nothing
        is said of threads, accelerate chooses how many.
        """
        world = self._world
        place = {
            "RANK": world.rank,
            "WORLD_SIZE": world.size,
            "LOCAL_RANK": world.local_rank,
            "LOCAL_WORLD_SIZE": world.local_size,
            "MASTER_ADDR": "127.0.0.1",
            "OMP_NUM_THREADS": torch.get_num_threads(),
        }
        for name, value in place.items():
            os.environ.setdefault(name, str(value))
        if self._alone():
            os.environ["LOCAL_RANK"] = _NO_RANK


def _configured(knobs: Knobs) -> dict[str, Any]:
    """Return what the user's configuration says; empty: there is none."""
    path = users_files.named(knobs).get("accelerate.config")
    if path is None:
        return {}
    try:
        return accelerate_config.acting(users_files.read("accelerate.config", path))
    except ScenarioError as error:
        raise BadCase(str(error)) from error


def _autocast_around(forward: Any) -> str:
    """Return the type that a forward pass casts to by itself; none: it does not.

    Each function that wraps another names it. That of torch.autocast holds the autocast.
    """
    while forward is not None:
        for cell in getattr(forward, "__closure__", None) or ():
            held = cell.cell_contents
            if isinstance(held, torch.autocast) and held._enabled:
                return str(held.fast_dtype).removeprefix("torch.")
        forward = getattr(forward, "__wrapped__", None)
    return "none"
