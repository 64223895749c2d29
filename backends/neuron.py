"""AWS Neuron: a known name whose availability is told truthfully; no adapter is shipped yet.

It looks at device files and at installed distributions, and never imports torch: importing the
Neuron stack starts its runtime.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from bench.backends.base import Backend, Device, Probe, World
from bench.scenarios.schema import Knobs

_INDEX = "https://pip.repos.neuron.amazonaws.com"
_INSTEAD = "use --backend cpu or --backend xla, which measure on the host's processors"
_PLACEHOLDER = "1.0"
"""The only version on PyPI: an empty distribution that reserves the name."""


class NeuronBackend(Backend):
    """Answers what of the Neuron stack is here, and is never available in this release.

    Args:
        root: The file system that is looked at.
        version: Returns the version of an installed distribution, or raises PackageNotFoundError.
    """

    name: ClassVar[str] = "neuron"

    def __init__(
        self,
        root: Path = Path("/"),
        version: Callable[[str], str] = importlib.metadata.version,
    ) -> None:
        self._root = root
        self._version = version

    def probe(self) -> Probe:
        """Look for the device, then for the software, then tell a placeholder from the real one."""
        installed = self._installed("torch-neuronx")
        if installed == _PLACEHOLDER:
            return self._unavailable(
                f"torch-neuronx {_PLACEHOLDER} is installed: the placeholder that PyPI has under "
                "that name, without any code",
                f"pip uninstall torch-neuronx, then install it from AWS's own index {_INDEX}",
            )
        if not any(self._root.glob("dev/neuron[0-9]*")):
            return self._unavailable(
                "no Neuron device is visible here (there is no /dev/neuron0)",
                "run on an AWS Inferentia2 or Trainium instance with the driver "
                f"aws-neuronx-dkms, or {_INSTEAD}",
            )
        if installed is None:
            return self._unavailable(
                "a Neuron device is visible and torch-neuronx is not installed; "
                "this release has no Neuron adapter either",
                _INSTEAD,
            )
        return self._unavailable(
            f"a Neuron device and torch-neuronx {installed} are here, and this release has no "
            "Neuron adapter",
            _INSTEAD,
        )

    def open(self, knobs: Knobs, world: World) -> Device:
        """Refuse: an unavailable backend is never planned for.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("this release has no Neuron adapter: a case on neuron is never started")

    def _installed(self, distribution: str) -> str | None:
        try:
            return self._version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def _unavailable(self, reason: str, remedy: str) -> Probe:
        return Probe(backend=self.name, available=False, reason=reason, remedy=remedy)
