"""Opens the simulated device as a worker does, in a process of its own, and reports what it saw."""

from __future__ import annotations

import importlib
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

from bench.backends.base import Unsupported, World
from bench.backends.neuron import NeuronBackend
from bench.scenarios.schema import Knobs


def main() -> None:
    """Open, ask, print, and leave past the exit handlers."""
    knobs = Knobs.model_validate_json(sys.argv[1])
    before = sorted(set(sys.modules) & {"torch_xla", "torch_neuronx", "libneuronxla"})
    # A worker has imported torch by then.
    importlib.import_module("bench.worker.session")
    try:
        device = NeuronBackend().open(knobs, World())
    except Unsupported as unsupported:
        print(json.dumps({"refused": str(unsupported)}), flush=True)
        os._exit(0)
    energy = device.energy()
    found: dict[str, Any] = {
        "before": before,
        "process_group": device.process_group,
        "torch_device": str(device.torch_device),
        "proven": device.prove(knobs),
        "memory_bytes": device.memory_bytes(),
        "joules": energy.joules,
        "no_energy": energy.reason,
        "clocks": device.clocks(),
        "described": device.describe(),
        "peak_flops_simulated": device.peak("bf16", "NC_v2"),
    }
    device_module = sys.modules[type(device).__module__]
    device_module.xm = SimpleNamespace(xla_device_kind=lambda _device: "NC_v2")
    peak = device.peak("bf16", "what the probe opened")
    found["peak_flops"] = None if peak is None else peak.flops_per_s
    device.close()
    print(json.dumps(found), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
