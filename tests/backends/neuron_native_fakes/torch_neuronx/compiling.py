"""Stands for TorchNeuron's backend of torch.compile: torch's own graphs, and a file for each.

Loaded by torch through an entry point, as the real one is. A program that lies in the cache is not
written again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import make_boxed_func


def neuron_backend(
    graph: torch.fx.GraphModule, inputs: Any, *, options: Any = None, mode: str = "default"
) -> Any:
    return aot_autograd(fw_compiler=_compiled)(graph, inputs)


def _compiled(graph: torch.fx.GraphModule, inputs: Any) -> Any:
    flags = os.environ.get("NEURON_CC_FLAGS", "")
    shapes = [tuple(one.shape) if isinstance(one, torch.Tensor) else one for one in inputs]
    if "FAKE_NEURON_CANNOT_COMPILE" in os.environ:
        raise RuntimeError("HLO to NEFF compilation failed for op 'torch_compile': planted")
    key = hashlib.sha256(f"{graph.code}{shapes}{flags}".encode()).hexdigest()
    folder = Path(os.environ.get("TORCH_NEURONX_NEFF_CACHE_DIR", "/tmp/neff_cache"))  # noqa: S108
    program = folder / key[:2] / key[2:4] / f"{key}.neff"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_bytes(b"NEFF")
    return make_boxed_func(graph.forward)
