"""NVIDIA GPUs: a known name whose availability is told truthfully; no adapter is shipped yet.

It only looks for the driver and the device, and never imports torch.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import ClassVar

from bench.backends.base import Backend, Device, Probe, World
from bench.scenarios.schema import Knobs

_INSTEAD = "use --backend cpu or --backend xla, which measure on the host's processors"


class CudaBackend(Backend):
    """Answers whether a GPU is here, and is never available in this release.

    Args:
        root: The file system that is looked at.
        library: Name of the driver's library.
    """

    name: ClassVar[str] = "cuda"

    def __init__(self, root: Path = Path("/"), library: str = "libcuda.so.1") -> None:
        self._root = root
        self._library = library

    def probe(self) -> Probe:
        """Look for the driver's library and module, and for a device file."""
        library = _loads(self._library)
        # Under WSL every GPU is /dev/dxg, and the library tells whose it is.
        if any(self._root.glob("dev/nvidia[0-9]*")) or (
            library and (self._root / "dev/dxg").exists()
        ):
            return self._unavailable(
                "an NVIDIA GPU is visible, and this release has no CUDA adapter", _INSTEAD
            )
        if (self._root / "proc/driver/nvidia").exists() or library:
            return self._unavailable(
                "the NVIDIA driver is installed and no GPU is visible to this process",
                "in a container, pass the device (docker run --gpus all); "
                "else nvidia-smi says what is wrong",
            )
        return self._unavailable(
            "no NVIDIA driver or device is visible here",
            "run on a machine with an NVIDIA GPU and its driver (nvidia-smi lists it), or "
            f"{_INSTEAD}",
        )

    def open(self, knobs: Knobs, world: World) -> Device:
        """Refuse: an unavailable backend is never planned for.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("this release has no CUDA adapter: a case on cuda is never started")

    def _unavailable(self, reason: str, remedy: str) -> Probe:
        return Probe(backend=self.name, available=False, reason=reason, remedy=remedy)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
