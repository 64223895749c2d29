"""Neuron's native flavour (TorchNeuron, torch-neuronx from 2.13 on): Trainium2 and Trainium3.

The planning half. A device `neuron` of torch's own: operators are executed as they come, and
`torch.compile(backend="neuron")` makes graphs. It looks at versions and files, and imports torch in
`probe` and `open` only.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import JsonValue

from bench.backends import (
    host,
    neuron_cores,
    neuron_environment,
    neuron_machine,
    neuron_native_environment,
    neuron_native_refusals,
    neuron_refusals,
    neuron_sysfs,
    xla,
)
from bench.backends.base import Backend, Device, Precompilation, Probe, Refusal, World
from bench.backends.neuron_machine import (
    INSTALL_NATIVE,
    INSTALL_XLA,
    NATIVE,
    OF_BOTH_FLAVOURS,
    PREFERRED,
    Machine,
)
from bench.scenarios.schema import Knobs

LEAST_PERIODS, LEAST_PERIODS_RESIDENT = 100, 10
"""After a fence the device waits until the host has drawn a batch and issued the first operator.
Drawing may take as long as a step where no worker does it, and is at most a hundredth of 100; with
batches that lie on the device the first operator of many is all there is."""
_OLDEST = (2, 13)


@dataclass(frozen=True)
class Opened:
    """What TorchNeuron says of the device that it has opened."""

    cores: int
    """Logical ones that this process may use."""
    name: str
    """Of the instance's family, as in trn2."""
    computed: float
    """What it makes of 1 + 1."""


class NeuronNative(Backend):
    """The planning half.

    Args:
        machine: Where it runs.
        opened: Opens the device.
    """

    name: ClassVar[str] = "neuron"
    families: ClassVar[Collection[str]] = ("neuron",)

    def __init__(self, machine: Machine, opened: Callable[[], Opened] | None = None) -> None:
        self._machine = machine
        self._opened = opened or (lambda: _open(machine.simulated))

    def probe(self) -> Probe:
        """Look at machine and versions, then open the device and compute with it."""
        installed = self._machine.installed("torch-neuronx") or ""
        if problem := self._problem(installed):
            return self._unavailable(*problem)
        os.environ.update(neuron_native_environment.of_case(Knobs()))
        try:
            opened = self._opened()
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            return self._unavailable(*neuron_machine.not_opened(installed, error))
        if opened.computed != 2.0:  # noqa: PLR2004 - one and one
            return self._unavailable(
                f"the first NeuronCore computes 1 + 1 = {opened.computed}",
                f"are driver, runtime and compiler of one release of Neuron? {INSTALL_NATIVE}",
            )
        return self._described(installed, opened)

    def devices(self) -> Mapping[str, Probe]:
        """Describe both chips that it drives."""

        def cores(family: str) -> Probe:
            return Probe(
                backend=self.name,
                available=True,
                device_count=2,
                flavour=NATIVE,
                facts={"family": family},
            )

        return {f"neuron, native, {family}": cores(family) for family in OF_BOTH_FLAVOURS}

    def environment(self, knobs: Knobs, probe: Probe) -> dict[str, str]:
        """Compose what TorchNeuron, the compiler and the runtime read before they start.

        The core of a rank is its own: `open` chooses it.
        """
        inherited = os.environ.get(neuron_environment.FLAGS, "")
        return host.environment(knobs) | neuron_native_environment.of_case(knobs, inherited)

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        """Refuse what needs a graph that is cut, and what TorchNeuron has no kernel for."""
        return [
            *neuron_native_refusals.on_precision(knobs),
            *neuron_refusals.on_precision(knobs),
            *neuron_native_refusals.on_compiling(knobs),
            *neuron_refusals.on_family(knobs, probe),
            *neuron_native_refusals.on_layout(knobs),
            *neuron_refusals.on_threads(knobs),
            *neuron_refusals.on_cores(knobs, probe),
            *neuron_native_environment.inherited_refusals(knobs, os.environ),
        ]

    def open(self, knobs: Knobs, world: World) -> Device:
        """Choose this rank's core and import TorchNeuron; the device is not touched yet.

        Its process group starts the runtime, and refuses to where the runtime has started before.
        """
        own = neuron_native_environment.of_rank(world, os.environ)
        os.environ.update(own)
        # torch, imported before, imports TorchNeuron, which may take back what was chosen: the
        # device compares. The environment as it is now would only be compared with itself.
        chosen = neuron_native_environment.of_case(knobs) | own
        from bench.backends.neuron_native_device import NeuronNativeDevice

        return NeuronNativeDevice(knobs, chosen, self._machine.root, self._machine.simulated)

    def least_periods(self, knobs: Knobs) -> int:
        """Ask for so many that the first batch and operator after a fence cost at most 1 %."""
        return LEAST_PERIODS_RESIDENT if knobs.data.source == "device" else LEAST_PERIODS

    def compile_cache(self, knobs: Knobs, probe: Probe, folder: str) -> dict[str, str] | None:
        """Keep compiled programs in `folder`: operators are compiled too, one by one."""
        return neuron_native_environment.of_cache(folder)

    def precompilation(self, knobs: Knobs, probe: Probe) -> Precompilation | Refusal | None:
        """Give each untimed run cores of its own, as a core serves one process."""
        return neuron_cores.handed_out(knobs, probe, os.environ)

    def _problem(self, installed: str) -> tuple[str, str] | None:
        """Return why TorchNeuron cannot be opened here, with a remedy; null: nothing says so."""
        try:
            neuron_environment.visible_cores(os.environ.get(neuron_environment.VISIBLE, ""))
        except ValueError as error:
            return str(error), f"unset {neuron_environment.VISIBLE}, or correct it"
        return self._unfit(installed) or self._unmatched(installed)

    def _unfit(self, installed: str) -> tuple[str, str] | None:
        """Return why this release does not run on this machine."""
        if xla.minor(installed) < _OLDEST:
            return (
                f"torch-neuronx {installed} is older than 2.13, the first release",
                INSTALL_NATIVE,
            )
        if not sys.platform.startswith("linux"):
            return "TorchNeuron is built for Linux only", "run it on Linux"
        family = self._machine.family()
        if family is not None and not family.startswith(OF_BOTH_FLAVOURS):
            return (
                f"torch-neuronx {installed} is TorchNeuron, which drives Trainium2 and Trainium3, "
                f"and this machine is {family}",
                f"make another environment with the XLA flavour: {INSTALL_XLA}",
            )
        return None

    def _unmatched(self, installed: str) -> tuple[str, str] | None:
        """Return what it needs beside it and does not find."""
        for package in ("torch", "timm"):
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed", INSTALL_NATIVE
        torch = self._machine.installed("torch") or ""
        if xla.minor(torch) != xla.minor(installed):
            return (
                f"torch {torch} is installed beside torch-neuronx {installed}: they share compiled "
                "code and must be of the same minor version",
                INSTALL_NATIVE,
            )
        return None

    def _described(self, installed: str, opened: Opened) -> Probe:
        simulated = self._machine.simulated
        family = self._machine.family() or opened.name
        chip = neuron_machine.chip(family) or family
        warnings = []
        if self._machine.installed("neuronx-cc") is None:
            warnings.append(f"neuronx-cc is not installed, so that nothing runs: {INSTALL_NATIVE}")
        return Probe(
            backend=self.name,
            available=True,
            device_model=f"simulated NeuronCore ({host.processor()})" if simulated else chip,
            device_count=max(1, opened.cores),
            flavour=f"{NATIVE}, simulated" if simulated else NATIVE,
            simulated=simulated,
            preferred=-1 if simulated else PREFERRED,
            facts={
                "torch_neuronx": installed,
                "neuronx_cc": self._machine.installed("neuronx-cc"),
                "instance": neuron_sysfs.instance_type(self._machine.root),
                "family": family,
                **self._cores(family, opened.cores),
            },
            warnings=warnings,
        )

    def _cores(self, family: str, logical: int) -> dict[str, JsonValue]:
        """Return the cores of the machine: a case may have others made of them than were opened."""
        in_one = neuron_cores.lnc(family, os.environ) or 1
        return neuron_cores.facts(self._machine.root, os.environ, lambda: logical * in_one)

    def _unavailable(self, reason: str, remedy: str) -> Probe:
        return Probe(backend=self.name, available=False, reason=reason, remedy=remedy)


def started() -> tuple[Any, Any]:
    """Import TorchNeuron, which torch may have done, and return its package and `torch.neuron`.

    Raises:
        RuntimeError: that is no TorchNeuron.
    """
    import torch

    package = importlib.import_module("torch_neuronx")
    module = getattr(torch, "neuron", None)
    if module is None:
        raise RuntimeError("importing torch_neuronx leaves no torch.neuron behind")
    return package, module


def torch_device(simulated: bool) -> str:
    """Return the name of the device: its index is the runtime's affair, which counts ranks."""
    return "cpu" if simulated else "neuron"


def _open(simulated: bool) -> Opened:
    _, neuron = started()
    if not neuron.is_available():
        raise RuntimeError("torch.neuron.is_available() is false")
    import torch

    cores = int(neuron.device_count())
    one = torch.ones(1, device=torch_device(simulated))
    computed = float((one + one).cpu())
    neuron.synchronize()
    return Opened(cores, str(neuron.get_device_properties(0).name), computed)
