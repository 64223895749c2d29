"""What the Neuron driver shows in /sys: cores, their memory, the board's power, the instance.

Paths and meanings are those of AWS's Neuron sysfs guide up to Neuron 2.32; the driver that came
with 2.33 moved some of them, and what is not found is null. Counters are only ever read: writing to
one clears it for everybody. Torch-free.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_DEVICES = "sys/devices/virtual/neuron_device"
_PRODUCT = "sys/devices/virtual/dmi/id/product_name"
_VALID = "POWER_STATUS_VALID"


@dataclass(frozen=True)
class Power:
    """Power of a device over the last minute, as a share of its maximum. Unit: percent."""

    low: float
    high: float
    mean: float


@dataclass(frozen=True)
class Core:
    """One core as the driver shows it."""

    folder: Path

    def memory_bytes(self) -> int | None:
        """Return the device memory in use; null: it cannot be read."""
        memory = self.folder / "stats/memory_usage/device_mem"
        whole = _number(memory / "total")
        if whole is not None:
            return whole
        parts = [_number(path) for path in memory.glob("*/total")]
        known = [part for part in parts if part is not None]
        return sum(known) if known and len(known) == len(parts) else None

    def peak_memory_bytes(self) -> int | None:
        """Return the most that was in use since the driver was loaded; null: it is not told.

        The peaks of the parts are not added up: they need not have come together.
        """
        return _number(self.folder / "stats/memory_usage/device_mem/peak")

    def power(self) -> Power | None:
        """Return the device's power over the last minute; null: there is no valid sample."""
        text = _read(self.folder.parent / "stats/power/utilization")
        fields = [] if text is None else text.split(",")
        try:
            status, _, low, high, mean = fields
            return Power(float(low), float(high), float(mean)) if status == _VALID else None
        except ValueError:
            return None  # an older driver without the file, or another form of it


def cores(root: Path) -> list[Core]:
    """Return the cores of all devices in their order, which is that of their numbers."""
    found = (root / _DEVICES).glob("neuron[0-9]*/neuron_core[0-9]*")
    return [Core(folder) for folder in sorted(found, key=_numbers)]


def instance_type(root: Path) -> str | None:
    """Return the type of the machine, as in inf2.xlarge, or its family alone; null: not told."""
    product = _read(root / _PRODUCT)
    # On machines that are no EC2 instance the file names their maker's product.
    if product is not None and re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+", product):
        return product
    shown = (root / _DEVICES).glob("neuron[0-9]*/info/architecture/instance_type")
    families = {text.lower() for path in shown if (text := _read(path))}
    return families.pop() if len(families) == 1 else None


def _numbers(folder: Path) -> tuple[int, int]:
    return _trailing(folder.parent.name), _trailing(folder.name)


def _trailing(name: str) -> int:
    return int(re.sub(r"^\D*", "", name))


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.isdigit() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
