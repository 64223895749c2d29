"""Trains a small net on PJRT CPU alone, and by DDP over torch_xla's process group, with options.

Prints the losses of every way, in a process of its own: functionalization is settled at its start.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import torch
import torch.distributed as dist
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.distributed.xla_backend

from bench.backends.neuron_device import NeuronDevice

WAYS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "ddp": {},
    "ddp as on the device": dict(NeuronDevice.ddp_options),
}


def losses(options: dict[str, Any] | None, accumulation: int) -> list[float]:
    """Return the loss before each of six updates."""
    torch.manual_seed(0)
    device = torch_xla.device()
    net = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    net.to(device)
    module: Any = net
    if options is not None:
        module = torch.nn.parallel.DistributedDataParallel(net, **options)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    inputs, labels = torch.randn(8, 16).to(device), torch.randint(0, 4, (8,)).to(device)
    found = []
    for _ in range(6):
        for micro in range(accumulation):
            local = options is not None and micro < accumulation - 1
            with module.no_sync() if local else contextlib.nullcontext():
                loss = torch.nn.functional.cross_entropy(module(inputs), labels)
                (loss / accumulation).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch_xla.sync()
        xm.wait_device_ops()
        found.append(float(loss.detach().cpu()))
    return found


def main() -> None:
    """Try every way and leave past the exit handlers."""
    dist.init_process_group("xla", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
    found = {
        way: [losses(options, accumulation) for accumulation in (1, 2)]
        for way, options in WAYS.items()
    }
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
