"""AWS Neuron under torch_xla (torch-neuronx 2.9): Inferentia2 and Trainium.

Two things are called torch-neuronx. Up to 2.9 it is a plug-in of torch_xla, which this adapter
drives; from 2.13 on it is TorchNeuron, a device of torch's own, which it tells apart and does not
drive. The planning half: it looks at device files and at installed distributions first, and imports
torch_xla in `probe` and `open` only, under the environment that was chosen before.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from bench.backends import host, neuron_environment, neuron_sysfs, xla
from bench.backends.base import Device, Probe, Refusal, World
from bench.backends.xla import XlaBackend
from bench.scenarios.schema import Knobs

SIMULATED = "BENCH_NEURON_SIMULATED"
"""Names the folder that stands for the file system of a machine with a Neuron device. torch_xla
then computes on the host's processors, and every row says so."""
PREFERRED = 90
_INDEX = "https://pip.repos.neuron.amazonaws.com"
_INSTEAD = "use --backend cpu or --backend xla, which measure on the host's processors"
_PLACEHOLDER = "1.0"
"""The only version on PyPI: an empty distribution that reserves the name."""
_DRIVEN = (2, 9)
_FIRST_NATIVE = (2, 10)
"""2.9 is the last that is built on torch_xla, 2.13 the first that is not; nothing lies between."""
_INSTALL = (
    f"pip install --extra-index-url {_INDEX} 'neuronx-cc==2.*' 'torch-neuronx==2.9.*' torchvision"
)
_WITH_LNC = ("trn2", "trn3")
"""Beginnings of the families whose logical cores may be made of two physical ones."""
_NO_TORCH_COMPILE = (
    "AWS's release notes of torch-neuronx 2.9 say that torch.compile is not supported by it; "
    "torch_xla's graphs are compiled by neuronx-cc all the same"
)
_CAST_FIRST = (
    "AWS has the compiler's own cast switched off under autocast: it would also cast what autocast "
    "keeps in float32"
)
_NOTHING_TO_CAST = "the compiler casts float32 only, and this precision leaves none"


class NeuronBackend(XlaBackend):
    """The planning half.

    Args:
        root: The file system that is looked at; null: that of `SIMULATED`, else the real one.
        version: Returns the version of an installed distribution, or raises PackageNotFoundError.
        opened: Opens the device, and returns torch_xla's name of its type and of its kind.
    """

    name: ClassVar[str] = "neuron"

    def __init__(
        self,
        root: Path | None = None,
        version: Callable[[str], str] = importlib.metadata.version,
        opened: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        pretended = os.environ.get(SIMULATED)
        self._simulated = bool(pretended) and root is None
        self._root = root or Path(pretended or "/")
        self._version = version
        self._opened = opened or _opened

    def probe(self) -> Probe:
        """Look for the device, then for the software of either flavour, then open the device."""
        installed = self._installed("torch-neuronx")
        if problem := self._missing(installed) or _not_driven(installed):
            return self._unavailable(*problem).model_copy(update={"flavour": _flavour(installed)})
        if found := xla.installation_problem():
            return self._unavailable(found[0], _INSTALL)
        return self._open_and_describe(str(installed))

    def devices(self) -> Mapping[str, Probe]:
        """Describe both sides of what differs: cores that come as they are, and logical ones."""

        def cores(family: str) -> Probe:
            return Probe(
                backend=self.name,
                available=True,
                device_count=2,
                flavour="xla",
                facts={"pjrt": "NEURON", "family": family},
            )

        return {"neuron, XLA, inf2 and trn1": cores("inf2"), "neuron, XLA, trn2": cores("trn2")}

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
            *_precision(knobs),
            *_compiling(knobs, probe),
            *_processes(knobs, probe),
            *xla.on_lazy_graphs(knobs),
            *neuron_environment.inherited_refusals(knobs, os.environ),
        ]

    def open(self, knobs: Knobs, world: World) -> Device:
        """Choose this rank's core, then import torch_xla and open it."""
        own = neuron_environment.of_rank(world, os.environ)
        os.environ.update(own)
        # An import may take back what was chosen: the device compares.
        names = (*neuron_environment.of_case(knobs), *own, "PJRT_DEVICE")
        chosen = {name: os.environ[name] for name in names}
        from bench.backends.neuron_device import NeuronDevice

        return NeuronDevice(knobs, chosen, self._root, self._simulated)

    def compile_cache(self, knobs: Knobs, probe: Probe, folder: str) -> dict[str, str] | None:
        """Keep compiled graphs in `folder`; the default is shared by all users of the machine.

        The simulation compiles nothing for a Neuron device, and PJRT CPU loads no cache.
        """
        return None if probe.simulated else {neuron_environment.CACHE: folder}

    def _missing(self, installed: str | None) -> tuple[str, str] | None:
        """Return what is not here, with what to do; null: a device and some torch-neuronx are."""
        if installed == _PLACEHOLDER:
            return (
                f"torch-neuronx {_PLACEHOLDER} is installed: the placeholder that PyPI has under "
                "that name, without any code",
                f"pip uninstall torch-neuronx, then install it from AWS's own index {_INDEX}",
            )
        if not any(self._root.glob("dev/neuron[0-9]*")):
            return (
                "no Neuron device is visible here (there is no /dev/neuron0)",
                "run on an AWS Inferentia2 or Trainium instance with the driver "
                f"aws-neuronx-dkms, or {_INSTEAD}",
            )
        if installed is None:
            return "a Neuron device is visible, and torch-neuronx is not installed", _INSTALL
        return None

    def _open_and_describe(self, installed: str) -> Probe:
        expected = "CPU" if self._simulated else "NEURON"
        shown = neuron_environment.visible_cores(os.environ.get(neuron_environment.VISIBLE, ""))
        os.environ.update(
            neuron_environment.of_case(Knobs())
            | (xla.device_environment("CPU") if self._simulated else {"PJRT_DEVICE": "NEURON"})
            | neuron_environment.of_rank(World(), os.environ)
        )
        try:
            kind_of_device, kind = self._opened()
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            return self._unavailable(
                f"torch-neuronx {installed} opens no NeuronCore: {first_line}",
                "neuron-ls shows the devices and the processes that hold them; a core serves one "
                "process at a time",
            )
        if kind_of_device != expected:
            return self._unavailable(
                f"torch_xla opened a device of type {kind_of_device} in place of {expected}",
                f"is libneuronxla of the same release as torch-neuronx {installed}? {_INSTALL}",
            )
        instance = neuron_sysfs.instance_type(self._root)
        cores = len(neuron_sysfs.cores(self._root)) if shown is None else len(shown)
        return Probe(
            backend=self.name,
            available=True,
            device_model=f"simulated NeuronCore ({host.processor()}, PJRT CPU)"
            if self._simulated
            else kind,
            device_count=max(1, cores),
            flavour="xla, simulated" if self._simulated else "xla",
            simulated=self._simulated,
            preferred=-1 if self._simulated else PREFERRED,
            facts={
                "pjrt": kind_of_device,
                "torch_neuronx": installed,
                "neuronx_cc": self._installed("neuronx-cc"),
                "libneuronxla": self._installed("libneuronxla"),
                "instance": instance,
                "family": None if instance is None else instance.partition(".")[0],
            },
            warnings=self._warnings(),
        )

    def _warnings(self) -> list[str]:
        found = []
        if self._installed("neuronx-cc") is None:
            found.append(f"neuronx-cc is not installed, so that nothing compiles: {_INSTALL}")
        if os.environ.get("XLA_IR_DEBUG") == "1" or os.environ.get("XLA_HLO_DEBUG") == "1":
            found.append("XLA_IR_DEBUG and XLA_HLO_DEBUG slow the tracing down: unset them")
        return found

    def _installed(self, distribution: str) -> str | None:
        try:
            return self._version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


def _flavour(installed: str | None) -> str | None:
    """Return which of the two things of that name a version is; null: neither."""
    if installed is None or installed == _PLACEHOLDER:
        return None
    return "native" if xla.minor(installed) >= _FIRST_NATIVE else "xla"


def _not_driven(installed: str | None) -> tuple[str, str] | None:
    if _flavour(installed) == "native":
        return (
            f"torch-neuronx {installed} is TorchNeuron, the native flavour, and this release "
            "drives the XLA flavour (torch-neuronx 2.9) alone",
            "make another environment with the XLA flavour, which Neuron has up to release 2.31: "
            f"{_INSTALL}",
        )
    if installed is not None and xla.minor(installed) != _DRIVEN:
        return f"torch-neuronx {installed} is older than 2.9, the one that is supported", _INSTALL
    return None


def _opened() -> tuple[str, str]:
    import torch_xla
    import torch_xla.core.xla_model as xm
    import torch_xla.runtime as xr

    kind = str(xm.xla_device_kind(torch_xla.device()))
    return str(xr.device_type()), kind


def _precision(knobs: Knobs) -> Iterator[Refusal]:
    asked, cast = knobs.precision, knobs.neuron.auto_cast
    if asked == "tf32":
        yield Refusal(
            knob="precision",
            value=asked,
            reason="here it is a cast by the compiler: set neuron.auto_cast=matmult and "
            "neuron.auto_cast_type=tf32",
        )
    if cast in ("matmult", "all") and asked != "fp32":
        reason = _CAST_FIRST if asked == "amp-bf16" else _NOTHING_TO_CAST
        yield Refusal(knob="neuron.auto_cast", value=cast, reason=reason)


def _compiling(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    neuron, family = knobs.neuron, probe.facts.get("family")
    if knobs.compile != "none":
        yield Refusal(knob="compile", value=knobs.compile, reason=_NO_TORCH_COMPILE)
    if neuron.model_type == "unet-inference" and knobs.task == "train":
        yield Refusal(
            knob="neuron.model_type",
            value=neuron.model_type,
            reason="it is for inference, and this case trains",
        )
    if not isinstance(family, str):
        return
    if neuron.target is not None and not family.startswith(neuron.target):
        yield Refusal(
            knob="neuron.target",
            value=neuron.target,
            reason=f"this machine is {family}, and what is compiled for another family is not for "
            "it",
        )
    if neuron.lnc is not None and not family.startswith(_WITH_LNC):
        yield Refusal(
            knob="neuron.lnc",
            value=neuron.lnc,
            reason=f"the cores of {family} are physical ones: logical cores came with Trainium2",
        )


def _processes(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    if knobs.threads is not None:
        yield Refusal(
            knob="threads",
            value=knobs.threads,
            reason="the work runs on the NeuronCores, not on host threads",
        )
    if knobs.processes == 1:
        return
    if probe.simulated:
        yield Refusal(
            knob="processes",
            value=knobs.processes,
            reason="the simulation computes on PJRT CPU, whose processes do not communicate",
        )
    elif knobs.processes > probe.device_count:
        yield Refusal(
            knob="processes",
            value=knobs.processes,
            reason=f"{probe.device_count} NeuronCores are visible, and a core serves one process",
        )
