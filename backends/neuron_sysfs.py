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
_ROWS = "xrow_grp,mm_active,wl_active,idle"
"""Head of the tensor engine's counters, a line for each group of rows of its array. AWS's guide has
no word of the file; this is how the driver's source writes it."""


@dataclass(frozen=True)
class Power:
    """Power of a device over the last minute, as a share of its maximum. Unit: percent."""

    low: float
    high: float
    mean: float


@dataclass(frozen=True)
class Cycles:
    """What a core's tensor engine has done since some fixed moment. Unit: cycles of its rows."""

    multiplying: int
    loading: int
    """Weights."""
    idle: int

    def multiplied_percent(self, earlier: Cycles) -> float | None:
        """Return the share of all cycles since then that multiplied; null: the counts stood still.

        Weights may be loaded while the last ones are multiplied with. Both are counted, so that the
        share is the least it can be.
        """
        parts = (
            self.multiplying - earlier.multiplying,
            self.loading - earlier.loading,
            self.idle - earlier.idle,
        )
        total = sum(parts)
        # A counter that fell was cleared meanwhile.
        return 100.0 * parts[0] / total if total > 0 and min(parts) >= 0 else None


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

    def tensor_cycles(self) -> Cycles | None:
        """Read the tensor engine's own counters; null: this driver does not show them.

        The time that a core was in use (`other_info/nc_time_in_use`) is no help: the driver adds up
        that of a process when it ends.
        """
        text = _text(self.folder / "stats/tensor_engine/pe_cntrs")
        # What is too long for the driver's buffer ends in the middle of a number.
        head, *lines = (text or "").splitlines() or [""]
        if text is None or head != _ROWS or not text.endswith("\n"):
            return None
        try:
            rows = [[int(field) for field in line.split(",")] for line in lines]
            _, multiplying, loading, idle = (sum(column) for column in zip(*rows, strict=True))
        except ValueError:
            return None  # another form of it, or no row
        return Cycles(multiplying, loading, idle)

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


def core_count(root: Path) -> int | None:
    """Return how many physical cores all devices say they have; null: one of them does not say."""
    devices = list((root / _DEVICES).glob("neuron[0-9]*"))
    told = [_number(device / "core_count") for device in devices]
    known = [number for number in told if number is not None]
    return sum(known) if known and len(known) == len(told) else None


def instance_type(root: Path) -> str | None:
    """Return the type of the machine, as in inf2.xlarge, or its family alone; null: not told."""
    product = _read(root / _PRODUCT)
    # On machines that are no EC2 instance the file names their maker's product.
    if product is not None and re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+", product):
        return product
    shown = (root / _DEVICES).glob("neuron[0-9]*/info/architecture/instance_type")
    families = {text.lower() for path in shown if (text := _read(path))}
    return families.pop() if len(families) == 1 else None


def family(root: Path) -> str | None:
    """Return the family of the machine's type, as in trn2; null: not told."""
    return (instance_type(root) or "").partition(".")[0] or None


def _numbers(folder: Path) -> tuple[int, int]:
    return _trailing(folder.parent.name), _trailing(folder.name)


def _trailing(name: str) -> int:
    return int(re.sub(r"^\D*", "", name))


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text is not None and text.isdigit() else None


def _read(path: Path) -> str | None:
    return (_text(path) or "").strip() or None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
