"""The working half of Neuron's native flavour: the device `neuron` of torch, opened by TorchNeuron.

Imported inside workers only. Nothing touches the device before it is used: TorchNeuron's process
group starts the runtime, and does not join where it runs already.

From AWS's documentation of Neuron 2.33: the fence, the memory statistics and that they are read
behind it, the process group, autocast and the compiler. From TorchNeuron's sources as they were
public in April 2026, before its first release: the list of operators that ran on the host, and that
a copy which does not wait goes through a buffer of its own. Where a release has no such list, the
operators are unknown (null), and the audit says so.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import JsonValue

from bench.backends import (
    neuron_cores,
    neuron_environment,
    neuron_native,
    neuron_native_environment,
    neuron_sysfs,
    neuron_telemetry,
)
from bench.backends.base import Counters, Device, EnergyCount, Unsupported
from bench.backends.dynamo import DynamoCounter
from bench.backends.neuron_machine import NATIVE
from bench.backends.peaks import Peak
from bench.scenarios.schema import Knobs

_LNC_DEFAULT = 2
"""Of Trainium2 and Trainium3, where the machine does not say which it is."""
_TOLD = (
    *neuron_environment.TOLD,
    neuron_native_environment.OPT_LEVEL,
    neuron_native_environment.NO_COMPILED_FALLBACK,
    neuron_native_environment.ONLY_UNIMPLEMENTED,
    neuron_native_environment.BLOCKING,
)


class NeuronNativeDevice(Device):
    """One logical NeuronCore.

    Args:
        knobs: Of the case.
        chosen: The environment that was chosen for it.
        root: The file system in which the driver shows its counters.
        simulated: The tensors lie on the host.

    Raises:
        Unsupported: an import took back a part of that environment.
    """

    process_group: ClassVar[str | None] = "neuron"
    own_memory: bool | None = True

    def __init__(
        self, knobs: Knobs, chosen: Mapping[str, str], root: Path, simulated: bool
    ) -> None:
        self._package, self._neuron = neuron_native.started()
        for name, value in neuron_environment.changed(chosen, os.environ).items():
            raise Unsupported(
                "neuron", name, f"importing torch_neuronx changed what was chosen to {value}"
            )
        self.torch_device = torch.device(neuron_native.torch_device(simulated))
        self._simulated = simulated
        self._instance = neuron_sysfs.instance_type(root)
        self._lnc = neuron_cores.lnc(neuron_sysfs.family(root), os.environ) or _LNC_DEFAULT
        self._programs_before = neuron_native_environment.compiled_programs(os.environ)
        self._programs, self._by_dynamo, self._compiles = self._programs_before or 0, 0, 0
        self._fallen: Counter[str] = Counter()
        self._dynamo = DynamoCounter()
        core = int(os.environ.get(neuron_environment.VISIBLE, "0"))
        self._telemetry = neuron_telemetry.of_core(core, root, self._lnc)

    def fence(self) -> None:
        """Wait for all streams of the core."""
        self._neuron.synchronize()

    def feed(self, batches: Iterable[Any], knobs: Knobs) -> Iterator[Any]:
        """Copy host batches without waiting: a copy that waits would wait for the step before."""
        if knobs.data.source == "device":
            return iter(batches)
        return (
            tuple(tensor.to(self.torch_device, non_blocking=True) for tensor in batch)
            for batch in batches
        )

    def compile(self, module: torch.nn.Module, knobs: Knobs) -> torch.nn.Module:
        """Compile for fixed shapes: AWS documents that this compiler takes no others."""
        if knobs.compile == "none":
            return module
        compiled = torch.compile(module, backend=knobs.compile, dynamic=False)
        if not isinstance(compiled, torch.nn.Module):
            raise TypeError(f"torch.compile returned {type(compiled).__name__}, not a module")
        return compiled

    def counters(self) -> Counters:
        """Count what was compiled, by dynamo or without it, and the operators that fell.

        TorchNeuron lists the operators that ran on the host once each, so that the list is cleared
        at every look: a count is the number of looks between which it was met.
        """
        told = self._dynamo.counters()
        return replace(told, compiles=self._compiled(told.compiles), fallbacks=self._fallbacks())

    def reset_peak_memory(self) -> None:
        """Begin the allocator's peak, and that of the core's counters, anew."""
        self._neuron.synchronize()
        self._neuron.reset_peak_memory_stats()
        self._telemetry.reset()

    def peak_memory_bytes(self) -> int | None:
        """Return the most that tensors took up at once."""
        self._neuron.synchronize()
        return int(self._neuron.max_memory_allocated())

    def memory_bytes(self) -> int | None:
        """Return what tensors take up now, when all that was issued has been done."""
        self._neuron.synchronize()
        return int(self._neuron.memory_allocated())

    def energy(self) -> EnergyCount:
        """Return why there is none."""
        return EnergyCount(reason=neuron_telemetry.NO_ENERGY)

    def peak(self, dtype: str, device_model: str | None) -> Peak | None:
        """Return the peak of a logical core: of one physical core or of two."""
        return super().peak(dtype, f"{device_model} LNC={self._lnc}")

    def describe(self) -> dict[str, JsonValue]:
        """Return the machine, the settings as they are now, and what the core's counters say."""
        flags = os.environ.get(neuron_environment.FLAGS, "")
        return {
            "device": str(self.torch_device),
            "flavour": NATIVE,
            "simulated": self._simulated,
            "instance": self._instance,
            "lnc": self._lnc,
            "compiler_options": neuron_environment.recorded_options(flags),
            **{name: os.environ.get(name) for name in _TOLD},
            "compiled_graphs_in_cache_at_start": self._programs_before,
            "reserved_peak_bytes": int(self._neuron.max_memory_reserved()),
            "graph_breaks": sum((self._dynamo.counters().graph_breaks or {}).values()),
            "telemetry": self._telemetry.source,
            **self._telemetry.load(),
        }

    def close(self) -> None:
        """Stop counting compilations, and what was started to read counters."""
        self._dynamo.close()
        self._telemetry.close()

    def _compiled(self, by_dynamo: int) -> int:
        """Return how much was compiled so far.

        An operator is compiled when it is met for the first time, without dynamo; a graph is
        dynamo's and becomes a program, unless the cache has it. Between two looks the larger of
        both counts is taken, so that a graph and its program are one, and neither goes unseen.
        """
        programs = neuron_native_environment.compiled_programs(os.environ) or 0
        self._compiles += max(by_dynamo - self._by_dynamo, programs - self._programs)
        self._by_dynamo, self._programs = by_dynamo, programs
        return self._compiles

    def _fallbacks(self) -> dict[str, int] | None:
        """Return the operators that ran on the host so far; null: this release lists none."""
        listed = getattr(self._package, "get_fallback_ops", None)
        clear = getattr(self._package, "clear_op_tracking", None)
        if listed is None or clear is None:
            return None
        self._fallen.update(map(str, listed()))
        clear()
        return dict(self._fallen)
