"""The harness's own host time per step: its step against a bare loop over the same operators.

The model is one multiplication by a learned factor, so that next to nothing is computed and what
differs between the two is the harness's bookkeeping: counting samples and batches, the precision
context, the division by the accumulation, the optimizer's hook, the calls through device and
engine. A device that runs asynchronously hides this time as long as its queue is full.

Each figure is the median, over many interleaved blocks, of (harness - bare) / steps. This runs on
the CPU, where calls are synchronous: there it is all there is to see of the host's side.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from median_interval import Median, median_interval

from bench.backends.cpu import CpuDevice
from bench.scenarios.schema import Knobs
from bench.workload import optimizers
from bench.workload.engines import PlainEngine
from bench.workload.step import InferStep, TrainStep

_CLASSES = 10
_BATCH = (torch.randn(8, _CLASSES), torch.randint(_CLASSES, (8,)))
_MICROSECONDS = 1e6


class Scale(torch.nn.Module):
    """Multiplies its input of shape [batch, classes] by one learned factor."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the scaled input."""
        return inputs * self.factor


class Compared(NamedTuple):
    """Time of a step by the bare loop, and what the harness adds. Unit: microseconds."""

    bare_us: float
    added: Median


def training(steps: int, blocks: int) -> Compared:
    """Compare training steps: forward, loss, backward, update."""
    knobs = Knobs(task="train", classes=_CLASSES)
    ours, module = Scale(), Scale()
    step = TrainStep(
        CpuDevice(1),
        ours,
        itertools.repeat(_BATCH),
        knobs,
        engine=PlainEngine(),
        optimizer=optimizers.build(knobs, ours.parameters()),
    )
    optimizer = optimizers.build(knobs, module.parameters())
    criterion = torch.nn.CrossEntropyLoss()
    batches = itertools.repeat(_BATCH)

    def bare(count: int) -> None:
        for _ in range(count):
            images, labels = next(batches)
            criterion(module(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return _compare(step.advance, bare, steps, blocks)


def inference(steps: int, blocks: int) -> Compared:
    """Compare inference steps: forward."""
    knobs = Knobs(task="infer", classes=_CLASSES)
    module = Scale()
    step = InferStep(CpuDevice(1), module, itertools.repeat(_BATCH), knobs)
    batches = itertools.repeat(_BATCH)

    def bare(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                images, _labels = next(batches)
                module(images)

    return _compare(step.advance, bare, steps, blocks)


def _compare(
    ours: Callable[[int], None], bare: Callable[[int], None], steps: int, blocks: int
) -> Compared:
    ours(steps)
    bare(steps)
    added, alone = [], []
    for block in range(blocks):
        first, second = (ours, bare) if block % 2 == 0 else (bare, ours)
        times = {first: _time(first, steps), second: _time(second, steps)}
        added.append(_MICROSECONDS * (times[ours] - times[bare]) / steps)
        alone.append(_MICROSECONDS * times[bare] / steps)
    return Compared(median_interval(alone).estimate, median_interval(added))


def _time(loop: Callable[[int], None], steps: int) -> float:
    begin = time.perf_counter()
    loop(steps)
    return time.perf_counter() - begin


def main() -> int:
    """Print both comparisons as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500, help="per block")
    parser.add_argument("--blocks", type=int, default=41, help="of each loop, interleaved")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "train": training(args.steps, args.blocks),
        "infer": inference(args.steps, args.blocks),
    }
    figures = {
        task: {
            "bare_us": compared.bare_us,
            "added_us": compared.added.estimate,
            "added_us_low": compared.added.low,
            "added_us_high": compared.added.high,
        }
        for task, compared in found.items()
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
