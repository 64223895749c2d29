"""Stands for the module that TorchNeuron registers as `torch.neuron`."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch_neuronx

USED_BYTES, PEAK_BYTES, RESERVED_BYTES = 5_000_000, 7_000_000, 64_000_000
_seen = {"used": 0, "peak": 0}


@dataclass(frozen=True)
class Properties:
    name: str
    total_memory: int


def is_available() -> bool:
    return device_count() > 0


def is_initialized() -> bool:
    return torch_neuronx.is_neuron_runtime_initialized()


def device_count() -> int:
    return len(torch_neuronx.visible_cores())


def current_device() -> int:
    return 0


def get_device_properties(device: object = None) -> Properties:
    torch_neuronx.start_runtime()
    return Properties(os.environ.get("FAKE_NEURON_FAMILY", "trn2"), 24 * 2**30)


def synchronize(device: object = None) -> None:
    torch_neuronx.start_runtime()
    torch_neuronx.work_is_done()
    _seen["used"] = USED_BYTES
    _seen["peak"] = max(_seen["peak"], PEAK_BYTES)


def memory_allocated(device: object = None) -> int:
    return _seen["used"]


def max_memory_allocated(device: object = None) -> int:
    return _seen["peak"]


def max_memory_reserved(device: object = None) -> int:
    return RESERVED_BYTES


def reset_peak_memory_stats(device: object = None) -> None:
    _seen["peak"] = _seen["used"]


def get_amp_supported_dtype() -> list[object]:
    import torch

    return [torch.float32, torch.float16, torch.bfloat16]


def _is_in_bad_fork() -> bool:
    return False


def manual_seed_all(seed: int) -> None:
    pass
