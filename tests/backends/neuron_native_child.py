"""Opens TorchNeuron's pretended device as a worker does, and reports what it saw.

Started with a case, and with what is to be done: `look`, `group` (join a process group first),
`compile`, or `type` (with the device type of the real one).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from bench.backends.base import Unsupported, World
from bench.backends.neuron import NeuronBackend
from bench.scenarios.schema import Knobs


def main() -> None:
    """Open, do, print, and leave past the exit handlers."""
    knobs, deed = Knobs.model_validate_json(sys.argv[1]), sys.argv[2]
    before = sorted(set(sys.modules) & {"torch", "torch_neuronx"})
    # A worker has imported torch by then.
    importlib.import_module("bench.worker.session")
    try:
        found = {"look": look, "group": group, "compile": compiled, "type": of_type}[deed](knobs)
    except Unsupported as unsupported:
        found = {"refused": str(unsupported)}
    print(json.dumps({"before": before, **found}), flush=True)
    os._exit(0)


def look(knobs: Knobs) -> dict[str, Any]:
    device = NeuronBackend().open(knobs, World())
    early = device._neuron.memory_allocated()
    device.reset_peak_memory()
    memory, peak = device.memory_bytes(), device.peak_memory_bytes()
    met = [device.counters().fallbacks]
    device.fence()
    met.append(device.counters().fallbacks)
    energy = device.energy()
    found = {
        "process_group": device.process_group,
        "torch_device": str(device.torch_device),
        "memory_before_any_fence": early,
        "memory_bytes": memory,
        "peak_memory_bytes": peak,
        "fallbacks": met,
        "joules": energy.joules,
        "no_energy": energy.reason,
        "clocks": device.clocks(),
        "mark": device.mark(),
        "peak_flops": getattr(device.peak("bf16", "Trainium2"), "flops_per_s", None),
        "described": device.describe(),
    }
    device._package.get_fallback_ops = None
    found["fallbacks_of_another_release"] = device.counters().fallbacks
    device.close()
    return found


def group(knobs: Knobs) -> dict[str, Any]:
    """Join and prove it, in the worker's order; then join where the runtime has started before."""
    import torch.distributed as dist

    from bench.worker.peers import join, prove_collectives

    folder = Path(os.environ["FAKE_NEURON_LOG"]).parent
    world = World(rank=0, size=1, local_rank=0)
    device = NeuronBackend().open(knobs, world)
    started = device._package.is_neuron_runtime_initialized()
    join(world, device, folder)
    evidence = prove_collectives(world, device)
    backend = dist.get_backend()
    dist.destroy_process_group()
    again = folder / "again"
    again.mkdir()
    try:
        join(world, device, again)
    except AssertionError as error:
        late = str(error)
    return {"started": started, "evidence": evidence, "backend": backend, "late": late}


def compiled(knobs: Knobs) -> dict[str, Any]:
    import torch

    device = NeuronBackend().open(knobs, World())
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.GELU())
    module = device.compile(model, knobs)
    before = device.counters()
    module(torch.ones(2, 4, device=device.torch_device)).sum().backward()
    device.fence()
    once = device.counters()
    module(torch.ones(2, 4, device=device.torch_device)).sum().backward()
    twice = device.counters()
    (Path(os.environ["TORCH_NEURONX_NEFF_CACHE_DIR"]) / "operator.neff").touch()
    callback: Any = module.dynamo_ctx.callback
    while hasattr(callback, "_torchdynamo_orig_backend"):
        callback = callback._torchdynamo_orig_backend
    return {
        "compiler": callback.compiler_name,
        "compiles": [before.compiles, once.compiles, twice.compiles],
        "compiles_with_an_operators": device.counters().compiles,
        "graph_breaks": once.graph_breaks,
        "cached_at_start": device.describe()["compiled_graphs_in_cache_at_start"],
        "uncompiled": device.compile(model, Knobs()) is model,
    }


def of_type(knobs: Knobs) -> dict[str, Any]:
    """Open the device of the real type: torch knows it by name, and has no kernels for it."""
    import torch

    from bench.backends.neuron_native_device import NeuronNativeDevice

    torch.utils.rename_privateuse1_backend("neuron")
    device = NeuronNativeDevice(knobs, {}, Path("/"), simulated=False)
    with device.autocast(knobs):
        on, dtype = torch.is_autocast_enabled("neuron"), torch.get_autocast_dtype("neuron")
    return {"torch_device": str(device.torch_device), "autocast": [on, str(dtype)]}


if __name__ == "__main__":
    main()
