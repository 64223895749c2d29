"""What one of two ranks does with an engine: train its half of known batches, or a whole launch.

Called in processes of its own by `tests.worker.two_ranks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.backends.base import World
from bench.backends.cpu import CpuDevice
from bench.measure.alignment import Alignment
from bench.worker import building, inspection, peers, session
from bench.worker.building import Built
from bench.worker.events import Events
from bench.worker.headline import _untrained, _weights_agree
from bench.worker.job import world_from_environment
from bench.workload.data import Batch
from bench.workload.step import TrainStep
from tests.worker.a_job import a_case, a_job

PER_RANK = 8
UPDATES = 4


def halves(rank: int, ranks: int) -> Iterator[Batch]:
    """Yield a rank's part of known batches, all of them different."""
    number = 0
    while True:
        generator = torch.Generator().manual_seed(number)
        images = torch.randn((2 * PER_RANK, 3, 32, 32), generator=generator)
        labels = torch.randint(10, (2 * PER_RANK,), generator=generator)
        each = 2 * PER_RANK // ranks
        mine = slice(rank * each, (rank + 1) * each)
        yield images[mine], labels[mine]
        number += 1


def trained(built: Built, rank: int, ranks: int) -> dict[str, Any]:
    """Train a few updates, and return the losses and the weights."""
    step = built.step
    assert isinstance(step, TrainStep)
    step.batches = halves(rank, ranks)
    losses = []
    for _ in range(UPDATES):
        step.advance(step._knobs.gradient_accumulation)
        output = step.output()
        assert output is not None
        losses.append(float(output))
    weights = [built.engine.whole(p).flatten().float() for p in built.model.parameters()]
    return {"losses": losses, "weights": torch.cat(weights).tolist()}


def alone(folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train the whole of each batch in this process."""
    case = a_case({**settings, "batch_size": 2 * PER_RANK})
    built = building.build(a_job(Path(folder), case), World(), CpuDevice(1))
    return trained(built, 0, 1)


def together(folder: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train this rank's half of each batch, and tell what the guards would see."""
    case = a_case({**settings, "processes": 2})
    world, device = world_from_environment(), CpuDevice(1)
    joined, _ = peers.meet(world, device, Path(folder), case.knobs)
    built = building.build(a_job(Path(folder), case), world, device)
    found = trained(built, world.rank, 2)
    assert built.moved is not None
    assert isinstance(built.step, TrainStep)
    found |= {
        "actual": built.engine.describe_actual(),
        "asked": built.engine.asked(case.knobs),
        "moved": built.moved.share(),
        "untrained": _untrained(built),
        "agree": _weights_agree(built, joined),
        "updates": built.step.counter.updates,
        "parameters": built.engine.count(built.model),
    }
    alignment = Alignment(gradient_accumulation=case.knobs.gradient_accumulation)
    looked = inspection.run(
        case.knobs, built, device, alignment, halves(world.rank, 2), world, joined
    )
    return found | {"heard": looked.gradient_heard, "kept": looked.gradient_kept}


def launched(folder: str, settings: dict[str, Any], plant: str | None = None) -> dict[str, str]:
    """Run a whole launch with a fault planted, and return what its audit found."""
    if plant is not None:
        PLANTS[plant]()
    case = a_case({**settings, "processes": 2})
    job = a_job(Path(folder), case, diagnose=True)
    launch = session.run(job, world_from_environment(), Events(dist_rank()), import_s=0.0)
    if launch is None:
        return {}
    return {check.name: f"{check.result}: {check.evidence}" for check in launch.audit}


def dist_rank() -> int:
    """Return this process's rank."""
    return world_from_environment().rank


def _gradients_stay_apart() -> None:
    """DDP believes that it has exchanged."""

    def local(_state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    wrap = torch.nn.parallel.DistributedDataParallel.__init__

    def wrapped(self: Any, *args: Any, **options: Any) -> None:
        wrap(self, *args, **options)
        local.__annotations__ = {
            "bucket": dist.GradBucket,
            "return": torch.futures.Future[torch.Tensor],
        }
        self.register_comm_hook(None, local)

    torch.nn.parallel.DistributedDataParallel.__init__ = wrapped  # type: ignore[method-assign]


def _parts_are_not_added() -> None:
    """A reduce-scatter gives each rank its own part of its own gradients."""

    def own(output: torch.Tensor, input: torch.Tensor, *_: Any, **__: Any) -> None:  # noqa: A002
        output.copy_(input.chunk(dist.get_world_size())[dist.get_rank()].view_as(output))

    # torch 2.9 calls the one, later ones the other.
    for name in ("reduce_scatter_tensor", "reduce_scatter_single"):
        setattr(dist, name, own)


PLANTS: dict[str, Callable[[], None]] = {
    "gradients stay apart": _gradients_stay_apart,
    "parts are not added": _parts_are_not_added,
}
