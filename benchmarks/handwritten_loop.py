"""The loop that a practitioner would write to time a training step: the yardstick of overhead.py.

One clock around N steps, with a wait for the device on both sides. It must not import the harness
that it is compared with. Every line on its standard input is a number of steps to run; it answers
each with one JSON line that holds the seconds they took, and ends with the input.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import timm
import torch
from torch.utils.data import DataLoader, Dataset

POOL = 8


class RandomImages(Dataset[tuple[torch.Tensor, int]]):
    """Draws every sample when it is asked for."""

    def __init__(self, size: int, classes: int) -> None:
        self.size = size
        self.classes = classes

    def __len__(self) -> int:
        return 2**31

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.randn(3, self.size, self.size), index % self.classes


def batches(args: argparse.Namespace) -> Iterable[Any]:
    """Return more batches than the loop needs: drawn per sample, or a pool in turn."""
    if args.source == "random":
        return DataLoader(RandomImages(args.image_size, args.classes), batch_size=args.batch_size)
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    pool = [
        (torch.randn(shape), torch.randint(args.classes, (args.batch_size,))) for _ in range(POOL)
    ]
    return itertools.cycle(pool)


def timed_on_cpu(args: argparse.Namespace) -> Callable[[int], float]:
    """Return a function that runs so many steps and returns their seconds."""
    torch.set_num_threads(args.threads)
    model = timm.create_model(args.model, num_classes=args.classes, **args.model_kwargs)
    if args.engine == "plain":
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
        return timed_plainly(args, model, optimizer)
    from handwritten_engines import ENGINES

    return ENGINES[args.engine](args, model)


def timed_plainly(
    args: argparse.Namespace, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Callable[[int], float]:
    """Return the loop over a model and an optimizer that are called as torch's own are."""
    criterion = torch.nn.CrossEntropyLoss()
    loader = iter(batches(args))

    def run(steps: int) -> float:
        start = time.perf_counter()
        for images, labels in itertools.islice(loader, steps):
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start

    return run


def timed_on_xla(args: argparse.Namespace) -> Callable[[int], float]:
    """Return a function that runs so many steps and returns their seconds, every graph executed."""
    import torch_xla
    import torch_xla.core.xla_model as xm
    from torch_xla.distributed.parallel_loader import MpDeviceLoader

    device = torch_xla.device()
    model = timm.create_model(args.model, num_classes=args.classes, **args.model_kwargs).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    criterion = torch.nn.CrossEntropyLoss()
    model.train()
    loader = iter(MpDeviceLoader(batches(args), device))

    def run(steps: int) -> float:
        start = time.perf_counter()
        for images, labels in itertools.islice(loader, steps):
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        torch_xla.sync()
        xm.wait_device_ops()
        return time.perf_counter() - start

    return run


def timed(args: argparse.Namespace) -> Callable[[int], float]:
    """Return a function that runs so many steps of the described loop and returns their seconds."""
    return (timed_on_cpu if args.backend == "cpu" else timed_on_xla)(args)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the description of a loop; null: from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["cpu", "xla"], default="cpu")
    parser.add_argument("--model", required=True)
    parser.add_argument("--model-kwargs", type=json.loads, default={})
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--source", choices=["random", "cached"], default="random")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--engine", choices=["plain", "ddp", "fsdp", "accelerate", "deepspeed"], default="plain"
    )
    return parser.parse_args(words)


def main() -> None:
    """Time the loop that the command line describes, as often as asked."""
    args = arguments()
    torch.manual_seed(args.seed)
    run = timed(args)
    for line in sys.stdin:
        print(json.dumps({"seconds": run(int(line))}), flush=True)
    # The device loader's threads would wait for ever on an endless loader.
    os._exit(0)


if __name__ == "__main__":
    main()
