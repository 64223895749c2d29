"""Neuron's XLA flavour (torch-neuronx 2.9): Inferentia2 and Trainium1 to 3 under torch_xla.

The planning half. It imports torch_xla in `probe` and `open` only, under the environment that was
chosen before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import ClassVar

from bench.backends import (
    host,
    neuron_cores,
    neuron_environment,
    neuron_inherited,
    neuron_machine,
    neuron_precompile,
    neuron_refusals,
    neuron_sysfs,
    xla,
)
from bench.backends.base import Device, Precompilation, Probe, Refusal, World
from bench.backends.neuron_machine import INSTALL_XLA, PREFERRED, XLA, Machine
from bench.backends.xla import XlaBackend
from bench.scenarios.schema import Knobs

_DRIVEN = (2, 9)
_FAMILIES = ("inf2", "trn1", "trn1n", "trn2", "trn3")
_NO_TORCH_COMPILE = (
    "AWS's release notes of torch-neuronx 2.9 say that torch.compile is not supported by it; "
    "torch_xla's graphs are compiled by neuronx-cc all the same"
)


class NeuronXla(XlaBackend):
    """The planning half.

    Args:
        machine: Where it runs.
        opened: Opens the device, and returns torch_xla's name of its type and of its kind.
    """

    name: ClassVar[str] = "neuron"
    families: ClassVar[Collection[str]] = ("neuron",)
    engines: ClassVar[Collection[str]] = ()

    def __init__(
        self, machine: Machine, opened: Callable[[], tuple[str, str]] | None = None
    ) -> None:
        self._machine = machine
        self._opened = opened or _opened

    def probe(self) -> Probe:
        """Look at the versions of what is installed, then open the device."""
        installed = self._machine.installed("torch-neuronx") or ""
        if xla.minor(installed) != _DRIVEN:
            return self._unavailable(
                f"torch-neuronx {installed} is older than 2.9, the one that is supported",
                INSTALL_XLA,
            )
        if found := xla.installation_problem():
            return self._unavailable(found[0], INSTALL_XLA)
        return self._open_and_describe(installed)

    def devices(self) -> Mapping[str, Probe]:
        """Describe each family that AWS's page on torch-neuronx 2.9 names: targets differ."""

        def cores(family: str) -> Probe:
            return Probe(
                backend=self.name,
                available=True,
                device_count=2,
                flavour=XLA,
                facts={"pjrt": "NEURON", "family": family},
            )

        return {f"neuron, XLA, {family}": cores(family) for family in _FAMILIES}

    def environment(self, knobs: Knobs, probe: Probe) -> dict[str, str]:
        """Compose what the compiler, the runtime and torch_xla read before they start.

        The core of a rank is its own: `open` chooses it.
        """
        inherited = os.environ.get(neuron_environment.FLAGS, "")
        chosen = host.environment(knobs) | neuron_environment.of_case(knobs, inherited)
        if probe.simulated:
            return chosen | super().environment(knobs, probe)
        return chosen | {"PJRT_DEVICE": "NEURON"}

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        """Refuse what AWS documents as unsupported or wrong, and what torch_xla cannot do."""
        return [
            *neuron_refusals.on_precision(knobs),
            *_compiling(knobs),
            *neuron_refusals.on_family(knobs, probe),
            *neuron_refusals.on_threads(knobs),
            *_processes(knobs, probe),
            *xla.on_lazy_graphs(knobs),
            *neuron_inherited.under_xla(knobs, os.environ),
        ]

    def open(self, knobs: Knobs, world: World) -> Device:
        """Choose this rank's core, then import torch_xla and open it."""
        own = neuron_environment.of_rank(world, os.environ)
        os.environ.update(own)
        # An import, of torch_xla or of what came before, may take back what was chosen: the device
        # compares. The environment as it is now would only be compared with itself.
        pjrt = {"PJRT_DEVICE": "CPU" if self._machine.simulated else "NEURON"}
        chosen = neuron_environment.of_case(knobs) | own | pjrt
        from bench.backends.neuron_device import NeuronDevice

        return NeuronDevice(knobs, chosen, self._machine.root, self._machine.simulated)

    def compile_cache(self, knobs: Knobs, probe: Probe, folder: str) -> dict[str, str] | None:
        """Keep compiled graphs in `folder`; the default is shared by all users of the machine.

        The simulation compiles nothing for a Neuron device, and PJRT CPU loads no cache.
        """
        return None if probe.simulated else {neuron_environment.CACHE: folder}

    def precompilation(self, knobs: Knobs, probe: Probe) -> Precompilation | Refusal | None:
        """Note the graphs of several cases on a core each, and compile them on the host."""
        return neuron_precompile.of_case(knobs, probe, os.environ)

    def compile_noted(self, jobs: int) -> int:
        """Have libneuronxla compile what was noted."""
        return neuron_precompile.compile_noted(jobs)

    def _open_and_describe(self, installed: str) -> Probe:
        simulated, root = self._machine.simulated, self._machine.root
        expected = "CPU" if simulated else "NEURON"
        try:
            cores = neuron_cores.facts(root, os.environ)
        except ValueError as error:
            return self._unavailable(str(error), f"set {neuron_environment.VISIBLE} anew")
        os.environ.update(
            neuron_environment.of_case(Knobs())
            | (xla.device_environment("CPU") if simulated else {"PJRT_DEVICE": "NEURON"})
            | neuron_environment.of_rank(World(), os.environ)
        )
        try:
            kind_of_device, kind = self._opened()
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            return self._unavailable(*neuron_machine.not_opened(installed, error))
        if kind_of_device != expected:
            return self._unavailable(
                f"torch_xla opened a device of type {kind_of_device} in place of {expected}",
                f"is libneuronxla of the same release as torch-neuronx {installed}? {INSTALL_XLA}",
            )
        family = self._machine.family()
        count = neuron_cores.count(cores, neuron_cores.lnc(family, {}) or 1)
        return Probe(
            backend=self.name,
            available=True,
            device_model=f"simulated NeuronCore ({host.processor()}, PJRT CPU)"
            if simulated
            else neuron_machine.core_name(family, kind),
            device_count=1 if count is None else max(1, count),
            flavour=f"{XLA}, simulated" if simulated else XLA,
            simulated=simulated,
            preferred=-1 if simulated else PREFERRED,
            facts={
                "pjrt": kind_of_device,
                "torch_neuronx": installed,
                "neuronx_cc": self._machine.installed("neuronx-cc"),
                "libneuronxla": self._machine.installed("libneuronxla"),
                "instance": neuron_sysfs.instance_type(root),
                "family": family,
                **cores,
            },
            warnings=[*([neuron_cores.UNTOLD] if count is None else []), *self._warnings()],
        )

    def _warnings(self) -> list[str]:
        found = []
        if self._machine.installed("neuronx-cc") is None:
            found.append(f"neuronx-cc is not installed, so that nothing compiles: {INSTALL_XLA}")
        if os.environ.get("XLA_IR_DEBUG") == "1" or os.environ.get("XLA_HLO_DEBUG") == "1":
            found.append("XLA_IR_DEBUG and XLA_HLO_DEBUG slow the tracing down: unset them")
        return found


def _opened() -> tuple[str, str]:
    import torch_xla
    import torch_xla.core.xla_model as xm
    import torch_xla.runtime as xr

    kind = str(xm.xla_device_kind(torch_xla.device()))
    return str(xr.device_type()), kind


def _compiling(knobs: Knobs) -> Iterator[Refusal]:
    if knobs.compile != "none":
        yield Refusal(knob="compile", value=knobs.compile, reason=_NO_TORCH_COMPILE)


def _processes(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    if probe.simulated and knobs.processes > 1:
        yield Refusal(
            knob="processes",
            value=knobs.processes,
            reason="the simulation computes on PJRT CPU, whose processes do not communicate",
        )
        return
    yield from neuron_refusals.on_cores(knobs, probe)
    yield from neuron_refusals.on_group(knobs, probe)
