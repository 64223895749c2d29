"""The working half of Neuron under torch_xla: a core, opened in its own environment.

Imported inside workers only, after that environment was chosen: importing torch_xla starts
libneuronxla and torch_neuronx, which write to it. Fence, cut and feed are torch_xla's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch_xla.core.xla_model as xm
import torch_xla.distributed.xla_backend  # noqa: F401 - registers the process group
from pydantic import JsonValue

from bench.backends import (
    neuron_cores,
    neuron_environment,
    neuron_machine,
    neuron_sysfs,
    neuron_telemetry,
)
from bench.backends.base import ClockRates, EnergyCount, Unsupported
from bench.backends.peaks import Peak
from bench.backends.xla_device import XlaDevice
from bench.scenarios.schema import Knobs

_TOLD = (*neuron_environment.TOLD, "XLA_DISABLE_FUNCTIONALIZATION")


class NeuronDevice(XlaDevice):
    """One NeuronCore.

    Args:
        knobs: Of the case.
        chosen: The environment that was chosen for it.
        root: The file system in which the driver shows its counters.
        simulated: The work runs on the host's processors.

    Raises:
        Unsupported: an import took back a part of that environment.
    """

    process_group: ClassVar[str | None] = "xla"
    # Without functionalization, which is off by default here, DDP's own copies of the gradients go
    # wrong without an error: the loss then falls otherwise, or with accumulation not at all.
    ddp_options: ClassVar[Mapping[str, Any]] = {"gradient_as_bucket_view": True}

    def __init__(
        self, knobs: Knobs, chosen: Mapping[str, str], root: Path, simulated: bool
    ) -> None:
        for name, value in neuron_environment.changed(chosen, os.environ).items():
            raise Unsupported(
                "neuron", name, f"importing torch_neuronx changed what was chosen to {value}"
            )
        super().__init__(knobs)
        self._simulated = simulated
        self._instance = neuron_sysfs.instance_type(root)
        self._cached_before = _compiled_graphs()
        self._family = neuron_sysfs.family(root)
        # Of how many the core is made that was opened: an import may have said it, as a knob may.
        lnc = neuron_cores.lnc(self._family, os.environ)
        core = int(os.environ.get(neuron_environment.VISIBLE, "0"))
        self._telemetry = neuron_telemetry.of_core(core, root, lnc)

    def reset_peak_memory(self) -> None:
        """Begin the peak of the core's memory anew, as far as its source can."""
        self._telemetry.reset()

    def peak_memory_bytes(self) -> int | None:
        """Return the core's peak memory since the reset."""
        return self._telemetry.peak_memory_bytes()

    def memory_bytes(self) -> int | None:
        """Return the core's memory in use."""
        return self._telemetry.memory_bytes()

    def energy(self) -> EnergyCount:
        """Return why there is none."""
        return EnergyCount(reason=neuron_telemetry.NO_ENERGY)

    def clocks(self) -> ClockRates | None:
        """Return null: no clock of a core is told."""
        return None

    def peak(self, dtype: str, device_model: str | None) -> Peak | None:
        """Return the peak of the core that was opened: a case may have others than the probe."""
        kind = str(xm.xla_device_kind(self.torch_device))
        return super().peak(dtype, neuron_machine.core_name(self._family, kind))

    def describe(self) -> dict[str, JsonValue]:
        """Add the machine, the settings as they are now, and what the core's counters say."""
        flags = os.environ.get(neuron_environment.FLAGS, "")
        return {
            **super().describe(),
            "flavour": "xla",
            "simulated": self._simulated,
            "instance": self._instance,
            "compiler_options": neuron_environment.recorded_options(flags),
            **{name: os.environ.get(name) for name in _TOLD},
            "compiled_graphs_in_cache_at_start": self._cached_before,
            "telemetry": self._telemetry.source,
            **self._telemetry.load(),
        }

    def close(self) -> None:
        """Stop the loader threads and what was started to read counters."""
        self._telemetry.close()
        super().close()


def _compiled_graphs() -> int | None:
    """Return how many graphs the compile cache holds; null: it is no folder of this machine."""
    folder = os.environ.get(neuron_environment.CACHE)
    if folder is None or "://" in folder:
        return None
    return sum(1 for _ in Path(folder).glob("neuronxcc-*/MODULE_*/model.neff"))
