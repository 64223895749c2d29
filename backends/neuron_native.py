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
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import JsonValue

from bench.backends import (
    host,
    neuron_cores,
    neuron_environment,
    neuron_native_environment,
    neuron_refusals,
    neuron_sysfs,
    xla,
)
from bench.backends.base import Backend, Device, Precompilation, Probe, Refusal, World
from bench.backends.neuron_machine import (
    INSTALL_NATIVE,
    INSTALL_XLA,
    NATIVE,
    PREFERRED,
    Machine,
)
from bench.scenarios.schema import FLOAT8, Knobs

LEAST_PERIODS, LEAST_PERIODS_RESIDENT = 100, 10
"""After a fence the device waits until the host has drawn a batch and issued the first operator.
Drawing may take as long as a step where no worker does it, and is at most a hundredth of 100; with
batches that lie on the device the first operator of many is all there is."""
_OLDEST = (2, 13)
_CHIPS = {"trn2": "Trainium2", "trn3": "Trainium3"}
"""By the beginning of the instance's family."""
_NO_DEVICE_LOADER = (
    "it is a queue of torch_xla's device loader; here data.workers and data.prefetch prepare "
    "batches"
)
_OTHERS_COMPILERS = {
    "inductor": "inductor generates no code for a Neuron device; compile=neuron does",
    "openxla": "openxla is torch_xla's compiler; compile=neuron is this device's",
}


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
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            return self._unavailable(
                f"torch-neuronx {installed} opens no NeuronCore: {first_line}",
                "neuron-ls shows the devices and the processes that hold them; a core serves one "
                f"process at a time, and {neuron_environment.VISIBLE} chooses free ones",
            )
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

        return {f"neuron, native, {family}": cores(family) for family in _CHIPS}

    def environment(self, knobs: Knobs, probe: Probe) -> dict[str, str]:
        """Compose what TorchNeuron, the compiler and the runtime read before they start.

        The core of a rank is its own: `open` chooses it.
        """
        inherited = os.environ.get(neuron_environment.FLAGS, "")
        return host.environment(knobs) | neuron_native_environment.of_case(knobs, inherited)

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        """Refuse what needs a graph that is cut, and what TorchNeuron has no kernel for."""
        return [
            *_precision(knobs),
            *neuron_refusals.on_precision(knobs),
            *_compiling(knobs),
            *neuron_refusals.on_family(knobs, probe),
            *_layout(knobs),
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
        # An import may take back what was chosen: the device compares.
        names = (*neuron_native_environment.of_case(knobs), *own)
        chosen = {name: os.environ[name] for name in names}
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
        shown = os.environ.get(neuron_environment.VISIBLE, "")
        cores = neuron_environment.visible_cores(shown) or range(probe.device_count)
        return Precompilation(devices=tuple(map(str, cores)), shown_by=neuron_environment.VISIBLE)

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
        if family is not None and not family.startswith(tuple(_CHIPS)):
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
        chip = next((chip for start, chip in _CHIPS.items() if family.startswith(start)), family)
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


def _precision(knobs: Knobs) -> Iterator[Refusal]:
    asked = knobs.precision

    def refusal(reason: str) -> Refusal:
        return Refusal(knob="precision", value=asked, reason=reason)

    if asked == "bf16-env":
        yield refusal("XLA_USE_BF16 is read by torch_xla alone")
    if asked in FLOAT8:
        yield refusal(
            "TorchNeuron has no kernel for the scaled float8 products that torchao makes: they "
            "would run on the host; the compiler's own cast is neuron.auto_cast_type=fp8_e4m3"
        )
    if asked == "amp-fp16" and knobs.task == "train":
        yield refusal(
            "TorchNeuron has no kernel for torch's loss scaler, a part of which would run on the "
            "host at every update; amp-bf16 needs no scaling"
        )


def _compiling(knobs: Knobs) -> Iterator[Refusal]:
    if reason := _OTHERS_COMPILERS.get(knobs.compile):
        yield Refusal(knob="compile", value=knobs.compile, reason=reason)
    if knobs.neuron.functionalization is not None:
        yield Refusal(
            knob="neuron.functionalization",
            value=knobs.neuron.functionalization,
            reason="XLA_DISABLE_FUNCTIONALIZATION is read by torch_xla alone",
        )
    if knobs.optimizer_impl == "capturable":
        yield Refusal(
            knob="optimizer_impl",
            value="capturable",
            reason="it serves CUDA graphs, which a Neuron device has not",
        )


def _layout(knobs: Knobs) -> Iterator[Refusal]:
    """Refuse what concerns graphs of several batches, queues and the order of memory."""
    loader = knobs.loader
    if loader.batches_per_execution > 1:
        yield Refusal(
            knob="loader.batches_per_execution",
            value=loader.batches_per_execution,
            reason="TorchNeuron executes operators, and torch.compile's graphs, as they are "
            "called: no graph is cut that could hold several batches",
        )
    for name in ("prefetch", "device_prefetch", "transfer_threads"):
        if (value := getattr(loader, name)) is not None:
            yield Refusal(knob=f"loader.{name}", value=value, reason=_NO_DEVICE_LOADER)
    if knobs.channels_last:
        yield Refusal(
            knob="channels_last",
            value=True,
            reason="TorchNeuron copies contiguous tensors, and neuronx-cc chooses the layout of "
            "every tensor itself",
        )
    if knobs.data.pin_memory:
        yield Refusal(
            knob="data.pin_memory",
            value=True,
            reason="TorchNeuron takes all host memory for page-locked: nothing would be locked",
        )
