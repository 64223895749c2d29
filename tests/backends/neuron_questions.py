"""Asks TorchNeuron, on a NeuronCore, what could not be known without one; prints the answers.

Every question is about something that the adapter of the native flavour relies on, and that AWS's
documentation does not say (docs/neuron.md).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from bench.backends import neuron_native_environment
from bench.backends.base import World
from bench.backends.neuron import NeuronBackend
from bench.scenarios.schema import Knobs
from tests.backends.neuron_bed import ANSWER

_MIB = 2**20
_BETWEEN = 1.0 + 2.0**-9
"""A quarter of the way from 1 to the next bfloat16."""


def main() -> None:
    """Open the device of a plain case, and ask what the first argument names."""
    device: Any = NeuronBackend().open(Knobs(), World())
    answer = QUESTIONS[sys.argv[1]](device)
    print(ANSWER + json.dumps(answer), flush=True)
    os._exit(0)


def a_copy_may_be_overwritten(device: Any) -> list[float]:
    """Return what arrives of host batches that are overwritten as soon as they were sent."""
    (host,) = batches = [torch.ones(4 * _MIB)]
    arrived = []
    for number in range(4):
        host.fill_(number)
        (there,) = next(iter(device.feed([batches], Knobs())))
        arrived.append(there)
    host.fill_(-1.0)
    device.fence()
    return [float(there.cpu().mean()) for there in arrived]


def memory(device: Any) -> dict[str, int | None]:
    """Return the allocator's figures around a tensor of 64 MiB."""
    before = device.memory_bytes()
    held = torch.zeros(64 * _MIB // 4, device=device.torch_device)
    during, peak = device.memory_bytes(), device.peak_memory_bytes()
    del held
    device.reset_peak_memory()
    return {"before": before, "during": during, "peak": peak, "after": device.peak_memory_bytes()}


def rounding(device: Any) -> int:
    """Return to how many values a number between two of bfloat16 is rounded."""
    there = torch.full((4096,), _BETWEEN).to(device.torch_device)
    return len(set(there.to(torch.bfloat16).cpu().tolist()))


def programs(device: Any) -> list[int | None]:
    """Return how many programs the cache holds before and after an operator of an odd shape."""
    before = neuron_native_environment.compiled_programs(os.environ)
    odd = torch.ones(37, 53, device=device.torch_device)
    (odd @ odd.t()).cpu()
    device.fence()
    return [before, neuron_native_environment.compiled_programs(os.environ)]


def fallbacks(device: Any) -> list[dict[str, int] | None]:
    """Return what is counted after a product, and after an operator that is likely not there."""
    square = torch.ones(8, 8, device=device.torch_device)
    (square @ square).cpu()
    first = device.counters().fallbacks
    torch.linalg.lstsq(square + torch.eye(8, device=device.torch_device), square)
    device.fence()
    return [first, device.counters().fallbacks]


def autocast(device: Any) -> str:
    """Return the type of a product under autocast."""
    square = torch.ones(8, 8, device=device.torch_device)
    with device.autocast(Knobs(precision="amp-bf16")):
        return str((square @ square).dtype)


QUESTIONS: dict[str, Callable[[Any], Any]] = {
    question.__name__: question
    for question in (
        a_copy_may_be_overwritten,
        memory,
        rounding,
        programs,
        fallbacks,
        autocast,
    )
}

if __name__ == "__main__":
    main()
