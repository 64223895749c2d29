"""What every engine is: it drives one model over the ranks, and says what really runs.

The step, the health pass and the inspections know this contract and no engine. Where a library
shards a tensor, a rank sees its own part of it: what is looked at goes through `local` or `whole`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from pydantic import JsonValue

from bench.backends.base import Device
from bench.scenarios.schema import Knobs

MakeOptimizer = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
"""Builds the optimizer of a case over these parameters."""
Prepared = tuple[torch.nn.Module, torch.optim.Optimizer | None]


class NotWithoutExchange(Exception):  # noqa: N818 - a reason to skip, not an error
    """The engine cannot make steps of which no other rank hears: why."""


class Engine(ABC):
    """Drives a model that already lies on its device."""

    shows_gradients: bool = True
    """Whether, after backward, parameters hold the gradients that the optimizer will be given."""
    shards_weights: bool = False
    """Whether a rank must gather weights to compute with them."""
    calls_per_update: int = 1
    """How often an update calls the optimizer."""
    shards_updates: bool = False
    """Whether each part of the weights is updated by one rank, and the others are given it."""

    @abstractmethod
    def prepare(self, module: torch.nn.Module, make_optimizer: MakeOptimizer | None) -> Prepared:
        """Return the module that the step calls, and torch's own optimizer that changes weights.

        Args:
            module: Its parameters may become others, in place.
            make_optimizer: Null for inference, which has no optimizer.

        Raises:
            bench.backends.base.Unsupported: it cannot drive this model, or not as asked.
        """

    @abstractmethod
    def accumulate(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of a micro-batch whose gradients are not exchanged yet."""

    def unexchanged(self) -> contextlib.AbstractContextManager[object]:
        """Return the context of whole steps in which no rank hears of another.

        The rest of their work is the same. Each rank trains for itself meanwhile, so that nothing
        may rest on the weights any more.

        Raises:
            NotWithoutExchange: it always exchanges.
        """
        raise NotWithoutExchange("what its ranks exchange cannot be left out")

    def backward(self, loss: torch.Tensor) -> None:
        """Go backward from a micro-batch's share of the loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, device: Device, optimizer: torch.optim.Optimizer) -> None:
        """Apply one update, and forget its gradients."""
        device.step_optimizer(optimizer)
        optimizer.zero_grad(set_to_none=True)

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what this rank holds of a parameter or gradient, as an ordinary tensor.

        It shares its memory. Where the parameter is sharded it may be empty.
        """
        return tensor

    def whole(self, parameter: torch.Tensor) -> torch.Tensor:
        """Return all of a parameter. Every rank must ask at once, for the same."""
        return parameter.detach()

    def over_ranks(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return sums over whole gradients, of which each rank has summed what it holds.

        Where every rank holds all of them, they are the same. Every rank must ask at once.

        Args:
            parts: Scalars of one type.
        """
        return list(parts)

    def count(self, module: torch.nn.Module) -> int:
        """Return how many numbers the parameters of all ranks together are, each counted once."""
        return sum(parameter.numel() for parameter in module.parameters())

    def copies_agree(self, module: torch.nn.Module) -> bool | None:
        """Return whether all devices of this rank hold the same weights; null: it has one."""
        return None

    def updated(self, optimizer: torch.optim.Optimizer) -> set[torch.Tensor]:
        """Return the model's parameters that an update changes."""
        return {p for group in optimizer.param_groups for p in group["params"]}

    def asked(self, knobs: Knobs) -> dict[str, JsonValue]:
        """Return what `describe_actual` must say for the case to be as it was asked for."""
        return {"engine": knobs.engine, "processes": knobs.processes}

    @abstractmethod
    def describe_actual(self) -> dict[str, JsonValue]:
        """Return engine and world as they really are, read back from what runs."""
