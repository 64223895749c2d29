"""The health pass on one rank: updates on one fixed batch, and the losses along the way. Untimed.

It issues the case's own step as the headline pass does, cut where the device loader cuts. What is
looked at stays on the device until the end, in the same place of every step: on a device that
builds graphs, a look that came and went would be another graph to compile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.backends import registry
from bench.backends.base import World
from bench.measure.alignment import Alignment
from bench.results.health import HealthRun
from bench.results.record import Phase
from bench.worker import building
from bench.worker.events import Events
from bench.worker.job import Job
from bench.worker.peers import meet
from bench.workload.engines import Engine
from bench.workload.step import TrainStep

_MOST_AGAIN = 16
"""Skipped updates that are made again: the scale begins at 2**16 and is halved each time."""


class WatchedLoss(torch.nn.Module):
    """The step's own loss, which keeps that of the first micro-batch of every update in float32.

    In pure bfloat16 the loss itself is a bfloat16: 6.906, then 6.938. The logits say it finer.

    Args:
        criterion: The step's own.
        every: Micro-batches per update.
    """

    def __init__(self, criterion: torch.nn.Module, every: int) -> None:
        super().__init__()
        self.kept: list[torch.Tensor] = []
        self._criterion = criterion
        self._every = every
        self._calls = 0

    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> Any:
        """Return what the step's own loss returns."""
        if self._calls % self._every == 0:
            finer = torch.nn.functional.cross_entropy(outputs.detach().float(), labels)
            self.kept.append(finer)
        self._calls += 1
        return self._criterion(outputs, labels)


class WatchedGradients:
    """Looks at the gradients of an optimizer, before every update.

    Args:
        engine: Tells what of them this rank holds.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.squares: list[torch.Tensor] = []
        """Sum of the squares of all elements, per call of the optimizer, then per update."""
        self.nonfinite: list[torch.Tensor] = []
        """Elements that are NaN or infinite, the same way."""

    def look(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Note what it is given now; a hook of its step."""
        given = [p.grad for group in optimizer.param_groups for p in group["params"]]
        held = [self._engine.local(gradient) for gradient in given if gradient is not None]
        gradients = [gradient.detach() for gradient in held]
        if gradients:
            squares = [gradient.float().square().sum() for gradient in gradients]
            nonfinite = [(~gradient.isfinite()).sum() for gradient in gradients]
            self.squares.append(torch.stack(squares).sum())
            self.nonfinite.append(torch.stack(nonfinite).sum())

    def add_up(self) -> None:
        """Turn what this rank has summed into sums over whole gradients; all ranks at once."""
        self.squares = self._engine.over_ranks(self._per_update(self.squares))
        self.nonfinite = self._engine.over_ranks(self._per_update(self.nonfinite))

    def _per_update(self, seen: list[torch.Tensor]) -> list[torch.Tensor]:
        calls = self._engine.calls_per_update
        if calls == 1:
            return seen
        return [torch.stack(seen[at : at + calls]).sum() for at in range(0, len(seen), calls)]


def run(job: Job, world: World, events: Events) -> HealthRun | None:
    """Run the health pass of a training case; returns what it saw on rank 0, null elsewhere.

    Args:
        job: Its launch, with `purpose` health.
        world: This process's place.
        events: Where progress goes.
    """
    knobs = job.case.knobs
    backend = registry.get(job.backend)
    events.enter(Phase.BUILD)
    device = backend.open(knobs, world)
    peers, _ = meet(world, device, Path(job.folder), knobs)
    alignment = building.alignment(backend, knobs)
    with device.checkpointing():
        step = building.build(job, world, device).step
        if not isinstance(step, TrainStep):
            raise TypeError("the health pass is for training: the plan orders no other")
        found = watch(step, alignment, job.case.measure.health_steps, events)
    events.enter(Phase.REPORT)
    # A rank that leaves early would break the last exchange of another.
    peers.barrier()
    device.close()
    return found if world.rank == 0 else None


def watch(step: TrainStep, alignment: Alignment, updates: int, events: Events) -> HealthRun:
    """Train a step that was not used yet on its one batch, and read what was seen.

    The loss after the last update comes from the micro-batch that follows it; what else the last
    graph holds is run and not looked at. An update that the loss scaling skips changes no weight
    and is made again, at a lower scale, a few times at most.
    """
    every = alignment.gradient_accumulation
    loss = WatchedLoss(step.criterion, every)
    step.criterion = loss
    gradients = WatchedGradients(step.engine)
    if step.scaling is None:
        step.optimizer.register_step_pre_hook(gradients.look)
    else:
        # An optimizer is not called for an update that is skipped, and a fused one is given
        # gradients with the scale still in them.
        step.before_update = lambda: gradients.look(step.optimizer)
    made = step.counter.updates
    events.enter(Phase.HEALTH)
    edge = alignment.first_cut
    while step.micro_batches < (updates + _again(step)) * every + 1:
        step.advance(edge)
        step.fence()
        edge = alignment.batches_per_execution
        events.tell(done=min(step.micro_batches // every, updates), total=updates)
    gradients.add_up()
    looked_at = _made(gradients, updates) if step.scaling is not None else range(updates)
    losses = [loss.kept[at] for at in looked_at] + [loss.kept[looked_at[-1] + 1]]
    squares = [gradients.squares[at] for at in looked_at if at < len(gradients.squares)]
    nonfinite = [gradients.nonfinite[at] for at in looked_at if at < len(gradients.nonfinite)]
    return HealthRun(
        losses=[_number(kept) for kept in losses],
        gradient_norm=_root(squares[0]) if squares else None,
        nonfinite_gradients=sum(int(count.cpu()) for count in nonfinite) if nonfinite else None,
        updates=min(step.counter.updates - made, updates),
    )


def _again(step: TrainStep) -> int:
    """Return how many updates are made beyond those that were asked for."""
    return min(step.skipped_updates() or 0, _MOST_AGAIN)


def _made(gradients: WatchedGradients, updates: int) -> Sequence[int]:
    """Return which of the updates were not skipped; the first ones, where too few were not."""
    made = [at for at, count in enumerate(gradients.nonfinite) if int(count.cpu()) == 0]
    return made[:updates] if len(made) >= updates else range(updates)


def _number(tensor: torch.Tensor) -> float | None:
    value = float(tensor.cpu())
    return value if math.isfinite(value) else None


def _root(tensor: torch.Tensor) -> float | None:
    square = _number(tensor)
    return None if square is None else math.sqrt(square)
