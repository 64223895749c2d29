"""The loops that a practitioner would write around each library: the yardsticks of engines.py.

They must not import the harness that they are compared with. Each joins the process group that is
there, or else the one that torchrun's variables name. Batches come from the same loader in each, so
that the libraries are all that differs; DeepSpeed is given torch's optimizer, and is told not to
clip gradients, which it does by default.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from handwritten_loop import batches, timed_plainly

_SHARED_MEMORY = "deepspeed_shm_comm"
"""Collectives of DeepSpeed's own, for which it wants a compiler."""


def _adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)


def _join() -> None:
    if not dist.is_initialized():
        dist.init_process_group("gloo")


def ddp(args: argparse.Namespace, model: Any) -> Callable[[int], float]:
    """Return torch's DistributedDataParallel, timed over so many steps."""
    _join()
    model.train()
    return timed_plainly(args, torch.nn.parallel.DistributedDataParallel(model), _adamw(model))


def fsdp(args: argparse.Namespace, model: Any) -> Callable[[int], float]:
    """Return torch's fully_shard (FSDP2), timed over so many steps."""
    from torch.distributed.fsdp import fully_shard

    _join()
    model.train()
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return timed_plainly(args, model, _adamw(model))


def accelerate(args: argparse.Namespace, model: Any) -> Callable[[int], float]:
    """Return accelerate's own loop, timed over so many steps."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model.train()
    model, optimizer = accelerator.prepare(model, _adamw(model))
    criterion = torch.nn.CrossEntropyLoss()
    loader = iter(batches(args))

    def run(steps: int) -> float:
        start = time.perf_counter()
        for images, labels in itertools.islice(loader, steps):
            loss = criterion(model(images), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start

    return run


def deepspeed(args: argparse.Namespace, model: Any) -> Callable[[int], float]:
    """Return DeepSpeed's own loop at ZeRO stage 2, timed over so many steps."""
    import deepspeed as library
    import deepspeed.ops

    library.ops.__compatible_ops__[_SHARED_MEMORY] = False
    _join()
    model.train()
    engine, *_ = library.initialize(
        model=model,
        optimizer=_adamw(model),
        config={
            "train_micro_batch_size_per_gpu": args.batch_size,
            "gradient_clipping": 0.0,
            "zero_optimization": {"stage": 2},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": None,
        },
    )
    criterion = torch.nn.CrossEntropyLoss()
    loader = iter(batches(args))

    def run(steps: int) -> float:
        start = time.perf_counter()
        for images, labels in itertools.islice(loader, steps):
            loss = criterion(engine(images), labels)
            engine.backward(loss)
            engine.step()
        return time.perf_counter() - start

    return run


ENGINES = {"ddp": ddp, "fsdp": fsdp, "accelerate": accelerate, "deepspeed": deepspeed}
