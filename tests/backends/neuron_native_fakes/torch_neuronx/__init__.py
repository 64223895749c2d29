"""Stands for TorchNeuron: what it does when torch imports it, and its functions that count.

Tensors lie on the host, where the real torch computes. The device type is not registered: torch
would then ask it for streams at every update, which compiled code alone can give. What is as in
TorchNeuron's sources: torch imports it by an entry point; it sets defaults of the environment; the
first use starts the runtime, which takes the visible cores as they are then; its process group does
not join once the runtime has started, nor where a process sees several cores; a statistic of the
memory tells what was done by the last synchronisation.

Every import and every start leaves a line in the file that FAKE_NEURON_LOG names, with the
environment as it was then.
"""

from __future__ import annotations

import json
import os
import sys

import torch

_DEFAULTS = {
    "NEURON_LAUNCH_BLOCKING": "0",
    "TORCH_NEURONX_FALLBACK_ONLY_FOR_UNIMPLEMENTED_OPS": "1",
    "NEURON_RT_ALLOW_LEGACY_NEFF": "1",
}
_fallen: set[str] = set()
_runtime = {"started": False}


def _autoload() -> None:
    """Called by torch at the end of its import."""


def note(event: str) -> None:
    log = os.environ.get("FAKE_NEURON_LOG")
    if log:
        kept = ("NEURON", "TORCH_NEURONX", "XLA")
        seen = {k: v for k, v in os.environ.items() if k.startswith(kept)}
        line = {"event": event, "environment": seen, "rank": os.environ.get("RANK")}
        with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123 - as small as can be
            file.write(json.dumps(line) + "\n")


def is_neuron_runtime_initialized() -> bool:
    return _runtime["started"]


def visible_cores() -> list[int]:
    """Return the logical cores of this process: all of the machine's where none are chosen."""
    written = os.environ.get("NEURON_RT_VISIBLE_CORES")
    if written:
        return [int(core) for core in written.split(",")]
    per_core = int(os.environ.get("NEURON_LOGICAL_NC_CONFIG", "2"))
    return list(range(int(os.environ.get("FAKE_NEURON_PHYSICAL_CORES", "8")) // per_core))


def start_runtime() -> None:
    if not _runtime["started"]:
        _runtime["started"] = True
        note("runtime starts")


def work_is_done() -> None:
    """Meet the operator that FAKE_NEURON_FALLS_BACK names on the host, as every step would."""
    if name := os.environ.get("FAKE_NEURON_FALLS_BACK"):
        _fallen.add(name)


def get_fallback_ops() -> list[str]:
    return list(_fallen)


def clear_op_tracking() -> None:
    _fallen.clear()


note("import torch_neuronx")
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
if "FAKE_NEURON_APPENDS" in os.environ:
    os.environ["NEURON_CC_FLAGS"] = (
        os.environ.get("NEURON_CC_FLAGS", "") + " " + os.environ["FAKE_NEURON_APPENDS"]
    )

from torch_neuronx import groups, neuron  # noqa: E402 - as the real one, after its defaults

torch.neuron = sys.modules["torch.neuron"] = neuron  # type: ignore[attr-defined]
groups.register()
