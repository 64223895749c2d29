"""Building the work of a case on an opened device: model, engine, data, optimizer, step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pydantic import JsonValue

from bench.backends import users_files
from bench.backends.base import Backend, Device, World
from bench.measure.alignment import Alignment
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Knobs
from bench.worker.job import Job
from bench.workload import data, engines, float8, models, optimizers
from bench.workload.engines import Engine
from bench.workload.errors import BadCase
from bench.workload.step import InferStep, MovedParameters, Step, TrainStep, trainable_parameters


@dataclass(frozen=True)
class Built:
    """A workload on its device, ready to step."""

    step: Step
    model: torch.nn.Module
    """Without wrappers."""
    engine: Engine
    moved: MovedParameters | None
    """Null for inference."""
    proven: dict[str, JsonValue]
    """What the device proved by computing."""
    image_size: int
    """Unit: pixels."""


def alignment(backend: Backend, knobs: Knobs) -> Alignment:
    """Return the rhythm in which a case steps and its graphs are cut."""
    return Alignment(
        batches_per_execution=knobs.loader.batches_per_execution,
        gradient_accumulation=knobs.gradient_accumulation,
        first_cut=backend.first_cut(knobs),
    )


def build(job: Job, world: World, device: Device) -> Built:
    """Build everything that the step needs.

    Ranks share the seed of the weights and differ in the seed of their data.

    Raises:
        bench.workload.errors.BadCase: the case names something that does not exist.
        bench.backends.base.Unsupported: the device or model cannot honour a knob.
    """
    knobs = job.case.knobs
    _check_files(job)
    device.seed(job.seed)
    proven = {} if job.notes else device.prove(knobs)
    source = models.build(knobs)
    trainable = trainable_parameters(source.module)
    module = float8.convert(source.module, knobs, source.image_size, emulate=device.emulates_float8)
    model = device.place(module, knobs)
    engine = engines.make(knobs, world, device, Path(job.folder))
    make = partial(optimizers.build, knobs) if knobs.task == "train" else None
    module, optimizer = engine.prepare(model, make)
    module = device.compile(module, knobs)
    data_seed = job.seed + world.rank
    if job.purpose == "health":
        # One batch for all ranks: the mean of their gradients is then that of a single process.
        one_batch = data.repeated(knobs, source.image_size, job.seed, device.torch_device)
        batches = device.feed(one_batch, knobs)
    elif knobs.data.source == "device":
        batches = device.feed(
            data.resident(knobs, source.image_size, data_seed, device.torch_device), knobs
        )
    else:
        batches = device.feed(data.loader(knobs, source.image_size, data_seed), knobs)
    step: Step
    if optimizer is not None:
        step = TrainStep(device, module, batches, knobs, engine=engine, optimizer=optimizer)
    else:
        step = InferStep(device, module, batches, knobs)
    moved = None if optimizer is None else MovedParameters(model, trainable, engine)
    return Built(step, model, engine, moved, proven, source.image_size)


def _check_files(job: Job) -> None:
    """See to it that the user's files say what the row will be known by."""
    if job.contents is None:
        return
    try:
        found = users_files.digests(job.case.knobs)
    except ScenarioError as error:
        raise BadCase(str(error)) from error
    for knob, file in users_files.named(job.case.knobs).items():
        if found[knob] != job.contents.get(knob):
            raise BadCase(
                f"{knob}={file}: it says something else than when the case was planned: leave a "
                "file as it is while it is measured"
            )
