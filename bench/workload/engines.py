"""Who drives the step over the ranks.

An engine prepares the model, says when gradients are to be exchanged, and describes what really
runs, so that a silent substitution shows.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import JsonValue

from bench.backends.base import World
from bench.scenarios.schema import Knobs


class Engine(ABC):
    """Prepares a model that already lies on its device."""

    @abstractmethod
    def prepare(self, module: torch.nn.Module) -> torch.nn.Module:
        """Return the module that the step calls."""

    @abstractmethod
    def accumulate(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of a micro-batch whose gradients are not exchanged yet."""

    @abstractmethod
    def describe_actual(self) -> dict[str, JsonValue]:
        """Return engine and world as they really are, read back from what runs."""


class PlainEngine(Engine):
    """One process, the model itself."""

    def prepare(self, module: torch.nn.Module) -> torch.nn.Module:
        """Return the module unchanged."""
        return module

    def accumulate(self) -> contextlib.AbstractContextManager[Any]:
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

    def prepare(self, module: torch.nn.Module) -> torch.nn.Module:
        """Wrap the module; its parameters are broadcast from rank 0."""
        if any(p.requires_grad for p in module.parameters()):
            module = torch.nn.parallel.DistributedDataParallel(module, **self._options)
        self._wrapped = module
        return module

    def accumulate(self) -> contextlib.AbstractContextManager[Any]:
        """Return DDP's no_sync: gradients stay local until the last micro-batch."""
        wrapped = self._wrapped
        if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel):
            return wrapped.no_sync()
        return contextlib.nullcontext()

    def describe_actual(self) -> dict[str, JsonValue]:
        """Read the wrapper's type and the process group's size back."""
        wrapped = isinstance(self._wrapped, torch.nn.parallel.DistributedDataParallel)
        return {
            "engine": "ddp" if wrapped else "plain",
            "processes": torch.distributed.get_world_size(),
        }


def make(knobs: Knobs, world: World, ddp_options: Mapping[str, Any] | None = None) -> Engine:
    """Return the engine a case asks for, DDP with what the device needs it to be told."""
    if knobs.engine == "ddp":
        return DdpEngine(ddp_options)
    if world.size != 1:
        raise ValueError(f"engine=plain in a world of {world.size}: the schema refuses this")
    return PlainEngine()
