"""What one of two ranks does with an engine: train its half of known batches, or a whole launch.

Called in processes of its own by `tests.worker.two_ranks`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench.backends.base import World
from bench.backends.cpu import CpuDevice
from bench.measure.alignment import Alignment
from bench.results.record import Diagnostics
from bench.scenarios.schema import Case
from bench.worker import building, diagnostics, inspection, peers, session
from bench.worker.building import Built
from bench.worker.events import Events
from bench.worker.headline import _untrained, _weights_agree
from bench.worker.job import world_from_environment
from bench.workload.data import Batch
from bench.workload.engines import sharded
from bench.workload.step import MovedParameters, TrainStep
from tests.worker.a_job import a_case, a_job

PER_RANK = 8
UPDATES = 4
SLOW_S = 0.2
"""Of a loss, or of what is exchanged in an update, where that is made slow."""
_OF_AN_UPDATE = 4
"""Collectives of FSDP2, at least."""


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


def together(folder: str, each: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Train this rank's half of each batch by every engine, and tell what the guards would see."""
    cases = [a_case({**settings, "processes": 2}) for settings in each]
    world, device = world_from_environment(), CpuDevice(1)
    joined, _ = peers.meet(world, device, Path(folder), cases[0].knobs)
    return [_halved(folder, case, world, device, joined) for case in cases]


def _halved(
    folder: str, case: Case, world: World, device: CpuDevice, joined: peers.Peers
) -> dict[str, Any]:
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


def launched(
    folder: str,
    settings: dict[str, Any],
    plant: str | None = None,
    diagnose: bool = True,
) -> dict[str, str]:
    """Run a whole launch with a fault planted, and return what its audit found."""
    if plant is not None:
        PLANTS[plant]()
    case = a_case({**settings, "processes": 2})
    job = a_job(Path(folder), case, diagnose=diagnose)
    launch = session.run(job, world_from_environment(), Events(dist_rank()), import_s=0.0)
    if launch is None:
        return {}
    found = {check.name: f"{check.result}: {check.evidence}" for check in launch.audit}
    assert launch.straggler is not None
    times = len(launch.diagnostics.alone_s) if launch.diagnostics is not None else 0
    return found | {"straggler": f"{launch.straggler.source}, {times} ranks"}


class Odd(torch.nn.Module):
    """Parameters and buffers of many types and layouts, each filled with the rank's number + 1."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3, 2), float(number)))
        types = (torch.bool, torch.int64, torch.bfloat16, torch.complex64)
        for at, dtype in enumerate(types):
            self.register_buffer(f"buffer_{at}", torch.full((2,), number - 1).to(dtype))
        self.register_buffer("turned", torch.full((2, 3), number).t())
        self.register_buffer("single", torch.tensor(number))
        self.register_buffer("empty", torch.zeros(0))


def built_apart(folder: str, each: list[dict[str, Any]]) -> dict[str, Any]:
    """Build with another seed on each rank, and tell the weights that the ranks have together."""
    world, device = world_from_environment(), CpuDevice(1)
    cases = [a_case({**settings, "processes": 2}) for settings in each]
    peers.meet(world, device, Path(folder), cases[0].knobs)
    found = []
    for case in cases:
        built = building.build(a_job(Path(folder), case, seed=world.rank), world, device)
        found.append(MovedParameters(built.model, engine=built.engine).digest())
    alone = building.build(a_job(Path(folder), a_case()), World(), device)
    odd = Odd(world.rank + 1)
    sharded.give_out(odd)
    return {
        "weights": found,
        "of the first rank's seed": MovedParameters(alone.model).digest(),
        "odd": {name: str(tensor.tolist()) for name, tensor in odd.state_dict().items()},
    }


def listening(folder: str, each: list[dict[str, Any]], plant: str) -> list[dict[str, Any]]:
    """Look whether ranks hear of each other, with every engine: as it is, and with a fault."""
    world, device = world_from_environment(), CpuDevice(1)
    cases = [a_case({**settings, "processes": 2}) for settings in each]
    joined, _ = peers.meet(world, device, Path(folder), cases[0].knobs)
    built = [building.build(a_job(Path(folder), case), world, device) for case in cases]

    def heard() -> list[float | None]:
        return [
            inspection.exchange(case.knobs, one, device, Alignment(), world, joined).gradient_heard
            for case, one in zip(cases, built, strict=True)
        ]

    honest = heard()
    PLANTS[plant]()
    pairs = zip(honest, heard(), built, strict=True)
    return [
        {"as it is": first, plant: second, "shards": one.engine.shards_updates}
        for first, second, one in pairs
    ]


def exchanging(folder: str, each: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time steps with the exchange and without: as they are, and with either fault planted."""
    slow = _Slow()
    world, device = world_from_environment(), CpuDevice(1)
    joined: peers.Peers | None = None
    found = []
    for settings in each:
        case = a_case({**settings, "processes": 2})
        if joined is None:
            joined, _ = peers.meet(world, device, Path(folder), case.knobs)
        built = building.build(a_job(Path(folder), case), world, device)
        built.step.advance(case.knobs.gradient_accumulation)
        alignment = Alignment(gradient_accumulation=case.knobs.gradient_accumulation)
        said: dict[str, Any] = {}
        for plant in (None, "rank", "collectives"):
            slow.who = plant
            told, own_s = diagnostics.without_exchange(
                case.knobs,
                Diagnostics(),
                built,
                device,
                alignment,
                periods=3,
                budget_s=60.0,
                world=world,
                peers=joined,
            )
            said[plant or "as it is"] = told.model_dump() | {"own_s": own_s}
        found.append(said)
    return found


class _Slow:
    """Makes the last rank's loss, or every collective of an engine, take so much longer."""

    def __init__(self) -> None:
        self.who: str | None = None
        names = ("all_gather_into_tensor", "all_gather_single", "reduce_scatter_tensor")
        for name in (*names, "reduce_scatter_single"):
            if hasattr(dist, name):
                each = self._before(getattr(dist, name), "collectives", SLOW_S / _OF_AN_UPDATE)
                setattr(dist, name, each)
        _with_hook(self._before(_summed, "collectives"))
        if dist_rank() == 1:
            loss = torch.nn.CrossEntropyLoss
            loss.forward = self._before(loss.forward, "rank")  # type: ignore[method-assign]

    def _before(
        self, call: Callable[..., Any], who: str, seconds: float = SLOW_S
    ) -> Callable[..., Any]:
        def late(*args: Any, **options: Any) -> Any:
            time.sleep(seconds if self.who == who else 0.0)
            return call(*args, **options)

        return late


def _summed(bucket: dist.GradBucket) -> torch.Tensor:
    gradients = bucket.buffer()
    dist.all_reduce(gradients)
    return gradients.div_(dist.get_world_size())


def dist_rank() -> int:
    """Return this process's rank."""
    return world_from_environment().rank


def _gradients_stay_apart() -> None:
    """DDP believes that it has exchanged."""

    _with_hook(lambda bucket: bucket.buffer())


def _with_hook(reduced: Callable[[dist.GradBucket], torch.Tensor]) -> None:
    """Have DDP make the gradients of a bucket by a function."""

    def local(_state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(reduced(bucket))
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


def _zero_adds_nothing() -> None:
    """What DeepSpeed sums over the ranks is what each of them has."""
    from bench.workload.engines.deepspeed import imported

    comm = imported("cpu").comm
    all_reduce = comm.all_reduce

    def own(tensor: torch.Tensor, op: Any = comm.ReduceOp.SUM, *rest: Any, **options: Any) -> Any:
        return None if op == comm.ReduceOp.SUM else all_reduce(tensor, op, *rest, **options)

    def own_part(output: torch.Tensor, whole: torch.Tensor, *_: Any, **__: Any) -> None:
        output.copy_(whole.chunk(dist.get_world_size())[dist.get_rank()].view_as(output))

    comm.all_reduce = own
    comm.reduce = lambda *_, **__: None
    comm.reduce_scatter_fn = own_part


PLANTS: dict[str, Callable[[], None]] = {
    "gradients stay apart": _gradients_stay_apart,
    "parts are not added": _parts_are_not_added,
    "zero adds nothing": _zero_adds_nothing,
}
