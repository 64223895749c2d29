"""A machine with Neuron devices as it looks before torch is imported: its files and its packages.

Two things are called torch-neuronx. Up to 2.9 it is a plug-in of torch_xla; from 2.13 on it is
TorchNeuron, a device of torch's own. The version tells which; both adapters ask this. Torch-free.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.backends import neuron_sysfs, xla
from bench.backends.neuron_environment import VISIBLE

SIMULATED = "BENCH_NEURON_SIMULATED"
"""Names the folder that stands for the file system of a machine with a Neuron device. The work is
then done on the host's processors, and every row says so."""
PREFERRED = 90
PLACEHOLDER = "1.0"
"""The only version of torch-neuronx on PyPI: an empty distribution that reserves the name."""
XLA, NATIVE = "xla", "native"
INSTALL_XLA = (
    "set PIP_EXTRA_INDEX_URL to AWS's package index (https://awsdocs-neuron.readthedocs-hosted.com"
    "/en/v2.32.0/setup/pytorch/index.html says which), then: "
    "pip install 'neuronx-cc==2.*' 'torch-neuronx==2.9.*' torchvision"
)
INSTALL_NATIVE = (
    "set PIP_EXTRA_INDEX_URL to AWS's package index (https://awsdocs-neuron.readthedocs-hosted.com"
    "/en/latest/torch/get-started/quickstart-torch-neuron.html says which), then: "
    "pip install 'neuronx-cc==2.*' 'torch-neuronx==2.14.*' 'torch==2.14.*' torchvision"
)
_FIRST_NATIVE = (2, 10)
"""2.9 is the last that is built on torch_xla, 2.13 the first that is not; nothing lies between."""
OF_BOTH_FLAVOURS = ("trn2", "trn3")
"""Beginnings of the families that TorchNeuron drives too."""
_CHIPS = {"inf2": "Inferentia2", "trn1": "Trainium1", "trn2": "Trainium2", "trn3": "Trainium3"}
"""By the beginning of the instance's family."""


@dataclass(frozen=True)
class Machine:
    """What is looked at.

    Args:
        root: The file system.
        simulated: It is that of a test bed.
        version: Returns the version of an installed distribution, or raises PackageNotFoundError.
    """

    root: Path
    simulated: bool
    version: Callable[[str], str]

    @staticmethod
    def here(root: Path | None, version: Callable[[str], str]) -> Machine:
        """Return this machine, or the one that the environment pretends.

        Args:
            root: The file system that is looked at; null: that of `SIMULATED`, else the real one.
            version: As above.
        """
        pretended = os.environ.get(SIMULATED)
        simulated = bool(pretended) and root is None
        return Machine(root or Path(pretended or "/"), simulated, version)

    def installed(self, distribution: str) -> str | None:
        """Return the version of a distribution; null: it is not installed."""
        try:
            return self.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def flavour(self) -> str | None:
        """Return which of the two things of that name is installed; null: neither."""
        found = self.installed("torch-neuronx")
        if found is None or found == PLACEHOLDER:
            return None
        return NATIVE if xla.minor(found) >= _FIRST_NATIVE else XLA

    def family(self) -> str | None:
        """Return the family of the instance, as in trn2; null: it is not told."""
        return neuron_sysfs.family(self.root)

    def missing(self) -> tuple[str, str] | None:
        """Return what is not here, with what to do; null: a device and some torch-neuronx are."""
        installed = self.installed("torch-neuronx")
        if installed == PLACEHOLDER:
            return (
                f"torch-neuronx {PLACEHOLDER} is installed: the placeholder that PyPI has under "
                "that name, without any code",
                f"pip uninstall torch-neuronx; {self._install()}",
            )
        if not any(self.root.glob("dev/neuron[0-9]*")):
            return (
                "no Neuron device is visible here (there is no /dev/neuron0)",
                "run on an AWS Inferentia2 or Trainium instance with the driver aws-neuronx-dkms, "
                "or use --backend cpu or --backend xla, which measure on the host's processors",
            )
        if installed is None:
            return "a Neuron device is visible, and torch-neuronx is not installed", self._install()
        return None

    def _install(self) -> str:
        family = self.family() or ""
        native = family.startswith(OF_BOTH_FLAVOURS)
        return INSTALL_NATIVE if native else INSTALL_XLA


def program(name: str) -> str | None:
    """Return the path of a program of AWS's; null: it is not installed."""
    # Their packages install it where a non-interactive PATH may not look.
    return shutil.which(name) or shutil.which(name, path="/opt/aws/neuron/bin")


def chip(family: str | None) -> str | None:
    """Return the name of the chip of a family of instances; null: the family is not known."""
    return next((name for start, name in _CHIPS.items() if (family or "").startswith(start)), None)


def core_name(family: str | None, kind: str) -> str:
    """Return the name of a core: its kind is on several chips, whose numbers are not each other's.

    Args:
        family: Of the instance; null: not told.
        kind: Of the core, as torch_xla calls it: logical ones of one and of two differ.
    """
    return " ".join(filter(None, (chip(family), kind)))


def not_opened(version: str | None, error: Exception) -> tuple[str, str]:
    """Return why no core was opened, in the first line of what was said, with a remedy."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"torch-neuronx {version} opens no NeuronCore: {first_line}",
        "neuron-ls shows the devices and the processes that hold them; a core serves one process "
        f"at a time, and {VISIBLE} chooses free ones",
    )
