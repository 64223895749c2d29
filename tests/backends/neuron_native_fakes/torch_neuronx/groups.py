"""Stands for TorchNeuron's process group: gloo's, behind the real one's two conditions."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

import torch_neuronx


def _made(store: Any, rank: int, size: int, timeout: Any) -> Any:
    if torch_neuronx.is_neuron_runtime_initialized():
        raise AssertionError("Neuron runtime should not be initialized before init_process_group")
    torch_neuronx.start_runtime()
    if len(torch_neuronx.visible_cores()) != 1:
        raise AssertionError("Attempted to have more than one device per process")
    return dist.ProcessGroupGloo(store, rank, size, timeout)


def register() -> None:
    # The real one is for the device alone. Here that is the host, whose tensors gloo has besides.
    dist.Backend.register_backend("neuron", _made, devices=["cpu"])
