"""Which accelerators this machine shows, by the files for which the adapters look.

A container may be given the fourth GPU alone, so that no number is taken for granted.
"""

from __future__ import annotations

from pathlib import Path

NO_NVIDIA = "no NVIDIA GPU here: run tox -e cuda where one is"
NO_NEURON = "no Neuron device here: run tox -e neuron-device where one is"


def has_nvidia(root: Path = Path("/")) -> bool:
    return any(root.glob("dev/nvidia[0-9]*")) or (root / "dev/dxg").exists()


def has_neuron(root: Path = Path("/")) -> bool:
    return any(root.glob("dev/neuron[0-9]*"))
