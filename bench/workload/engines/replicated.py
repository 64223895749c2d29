"""Engines whose every rank holds the whole model: one process, and DistributedDataParallel."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import JsonValue

from bench.workload.engines.base import Engine, MakeOptimizer, Prepared


class PlainEngine(Engine):
    """One process, the model itself."""

    def prepare(self, module: torch.nn.Module, make_optimizer: MakeOptimizer | None) -> Prepared:
        """Return the module unchanged."""
        return module, make_optimizer and make_optimizer(module.parameters())

    def accumulate(self) -> contextlib.AbstractContextManager[object]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()

    def describe_actual(self) -> dict[str, JsonValue]:
        """Return plain and a world of one."""
        return {"engine": "plain", "processes": 1}


class DdpEngine(Engine):
    """DistributedDataParallel over an initialised default process group.

    Args:
        options: What the device needs DDP to be told; null: nothing.
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(options or {})
        self._wrapped: torch.nn.Module | None = None

    def prepare(self, module: torch.nn.Module, make_optimizer: MakeOptimizer | None) -> Prepared:
        """Wrap the module; its parameters are broadcast from rank 0."""
        optimizer = make_optimizer and make_optimizer(module.parameters())
        if any(p.requires_grad for p in module.parameters()):
            module = torch.nn.parallel.DistributedDataParallel(module, **self._options)
        self._wrapped = module
        return module, optimizer

    def accumulate(self) -> contextlib.AbstractContextManager[object]:
        """Return DDP's no_sync: gradients stay local until the last micro-batch."""
        wrapped = self._wrapped
        if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
            return wrapped.no_sync()
        return contextlib.nullcontext()

    def unexchanged(self) -> contextlib.AbstractContextManager[object]:
        """Return DDP's no_sync, which holds for updates as well."""
        return self.accumulate()

    def describe_actual(self) -> dict[str, JsonValue]:
        """Read the wrapper's type and the process group's size back."""
        wrapped = isinstance(self._wrapped, torch.nn.parallel.DistributedDataParallel)
        return {
            "engine": "ddp" if wrapped else "plain",
            "processes": torch.distributed.get_world_size(),
        }
