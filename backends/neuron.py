"""AWS Neuron: Inferentia2 and Trainium, by whichever of its two software stacks is installed.

The planning half. It finds the device and the stack by files and versions alone, and hands every
question to the planning half of that flavour: `bench.backends.neuron_xla` up to torch-neuronx 2.9,
`bench.backends.neuron_native` from 2.13 on. Neither, nor this, imports torch outside `probe` and
`open`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import ClassVar

from bench.backends.base import Backend, Device, Precompilation, Probe, Refusal, World
from bench.backends.neuron_machine import NATIVE, Machine
from bench.backends.neuron_native import NeuronNative, Opened
from bench.backends.neuron_xla import NeuronXla
from bench.scenarios.schema import Knobs


class NeuronBackend(Backend):
    """The planning half.

    Args:
        root: The file system that is looked at; null: that of the simulation, else the real one.
        version: Returns the version of an installed distribution, or raises PackageNotFoundError.
        opened: Opens the device by torch_xla, and returns the names of its type and of its kind.
        opened_natively: Opens it by TorchNeuron, and returns what that says of it.
    """

    name: ClassVar[str] = "neuron"
    families: ClassVar[Collection[str]] = ("neuron",)
    compiler_words: ClassVar[Collection[str]] = (
        "RunNeuronCCImpl",
        "neuronx-cc compilation failed",
        "NEFF compilation failed",
    )
    # XLA's status, what the runtime calls its own, and the compiler's code for a model too large.
    memory_words: ClassVar[Collection[str]] = (
        "RESOURCE_EXHAUSTED",
        "nrt_tensor_allocate status=4",
        "Allocation Failure",
        "NCC_EOOM",
    )

    def __init__(
        self,
        root: Path | None = None,
        version: Callable[[str], str] = importlib.metadata.version,
        opened: Callable[[], tuple[str, str]] | None = None,
        opened_natively: Callable[[], Opened] | None = None,
    ) -> None:
        self._machine = Machine.here(root, version)
        self._xla = NeuronXla(self._machine, opened)
        self._native = NeuronNative(self._machine, opened_natively)

    def probe(self) -> Probe:
        """Look for the device, then for the software of either flavour, then open the device."""
        flavour = self._machine.flavour()
        if missing := self._machine.missing():
            reason, remedy = missing
            found = Probe(backend=self.name, available=False, reason=reason, remedy=remedy)
        else:
            found = self._installed().probe()
        told = {"flavour": found.flavour or flavour, "simulated": self._machine.simulated}
        return found.model_copy(update=told)

    def devices(self) -> Mapping[str, Probe]:
        """Describe the devices of both flavours."""
        return {**self._xla.devices(), **self._native.devices()}

    def environment(self, knobs: Knobs, probe: Probe) -> dict[str, str]:
        """Compose what the flavour that was found reads before it starts."""
        return self._of(probe).environment(knobs, probe)

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        """Refuse what the flavour that was found cannot do."""
        return self._of(probe).refusals(knobs, probe)

    def open(self, knobs: Knobs, world: World) -> Device:
        """Open this rank's core by the flavour that is installed here."""
        return self._installed().open(knobs, world)

    def first_cut(self, knobs: Knobs) -> int:
        """Return what the flavour that is installed here lets into the first graph."""
        return self._installed().first_cut(knobs)

    def prefetched(self, knobs: Knobs) -> int:
        """Return how many batches may wait in the flavour that is installed here."""
        return self._installed().prefetched(knobs)

    def least_periods(self, knobs: Knobs) -> int:
        """Return how long a window is to be for the flavour that is installed here."""
        return self._installed().least_periods(knobs)

    def compile_cache(self, knobs: Knobs, probe: Probe, folder: str) -> dict[str, str] | None:
        """Keep what is compiled in `folder`; the default is shared by all users of the machine."""
        return self._of(probe).compile_cache(knobs, probe, folder)

    def precompilation(self, knobs: Knobs, probe: Probe) -> Precompilation | Refusal | None:
        """Return how the flavour that was found is compiled for beforehand."""
        return self._of(probe).precompilation(knobs, probe)

    def compile_noted(self, jobs: int) -> int:
        """Compile what was noted by the flavour that is installed here."""
        return self._installed().compile_noted(jobs)

    def _of(self, probe: Probe) -> Backend:
        """Return the flavour that a probe found: another Python's may not be the one here."""
        return self._native if (probe.flavour or "").startswith(NATIVE) else self._xla

    def _installed(self) -> Backend:
        """Return the flavour that is installed for this Python."""
        return self._native if self._machine.flavour() == NATIVE else self._xla
