"""The smallest real workloads, for tests that need one."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from bench.backends.cpu import CpuDevice
from bench.scenarios.schema import Knobs
from bench.workload import optimizers
from bench.workload.data import Batch
from bench.workload.engines import Engine, PlainEngine
from bench.workload.step import InferStep, TrainStep

CLASSES = 5


class Flat(torch.nn.Module):
    """One linear layer over flattened 3 x 4 x 4 images; no state but its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(48, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(1))


class Recorder(torch.nn.Module):
    """Keeps what it was given; has one convolution so that layouts and types are real."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, CLASSES, 4)
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return self.stem(images).flatten(1)


def knobs(**changes: Any) -> Knobs:
    return Knobs.model_validate({"classes": CLASSES, "batch_size": 4, "threads": 1, **changes})


def batch(size: int = 4, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn((size, 3, 4, 4), generator=generator),
        torch.randint(CLASSES, (size,), generator=generator),
    )


def train_step(
    module: torch.nn.Module, batches: list[Batch], wanted: Knobs, engine: Engine | None = None
) -> TrainStep:
    """Return a step that rotates through the batches."""
    return TrainStep(
        CpuDevice(1),
        module,
        itertools.cycle(batches),
        wanted,
        engine=engine or PlainEngine(),
        optimizer=optimizers.build(wanted, module.parameters()),
    )


def infer_step(module: torch.nn.Module, batches: list[Batch], wanted: Knobs) -> InferStep:
    """Return a step that rotates through the batches."""
    return InferStep(CpuDevice(1), module, itertools.cycle(batches), wanted)
