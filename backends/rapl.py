"""Energy of the host's processors by RAPL, as Linux's powercap tree in sysfs shows it; torch-free.

RAPL meters whole processors. What other processes use is in the figure, and memory and the rest of
the machine are not: `source` says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.backends.base import EnergyCount

POWERCAP = Path("/sys/class/powercap")
PERIOD_S = 0.001
"""RAPL counters are updated about every millisecond (Intel SDM, volume 3, RAPL interfaces)."""
_ZONE = re.compile(r"[\w-]+:\d+")
"""A zone at the top; `intel-rapl:0:1` lies inside `intel-rapl:0` and is part of its count."""


@dataclass
class _Package:
    name: str
    counter: Path
    last_uj: int
    range_uj: int | None
    """The counter goes from here back to 0; null: not told."""
    used_uj: int = 0


class Rapl:
    """Sums the energy of all processors since it was made, across the counters' wrap-arounds.

    A counter that wraps twice between two readings loses a round: at 300 W and the usual 262 kJ
    that takes half an hour.

    Args:
        root: Where the powercap tree is.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._packages: list[_Package] = []
        self._reason: str | None = None
        try:
            self._packages = _packages(root)
        except (OSError, ValueError) as error:
            self._reason = _unreadable(error)
        if not self._packages and self._reason is None:
            self._reason = "the system shows no RAPL package counter (virtual machines have none)"

    def read(self) -> EnergyCount:
        """Return the joules since this object was made, or why there are none."""
        if self._reason is None:
            try:
                for package in self._packages:
                    _advance(package)
            except (OSError, ValueError) as error:
                # Half a sum must not be taken for a whole one later.
                self._reason = _unreadable(error)
        if self._reason is not None:
            return EnergyCount(reason=self._reason)
        names = ", ".join(package.name for package in self._packages)
        return EnergyCount(
            joules=sum(package.used_uj for package in self._packages) / 1e6,
            source=f"RAPL, {names}: the whole of each processor, co-tenants included, not memory",
            period_s=PERIOD_S,
            machine_wide=True,
        )


def _packages(root: Path) -> list[_Package]:
    found: dict[str, _Package] = {}
    zones = [zone for zone in root.iterdir() if _ZONE.fullmatch(zone.name)] if root.is_dir() else []
    # A package may be shown a second time by another interface (intel-rapl-mmio): the first counts.
    for zone in sorted(zones, key=lambda zone: (len(zone.name), zone.name)):
        name = (zone / "name").read_text(encoding="ascii").strip()
        if not name.startswith("package-") or name in found:
            continue
        limit = zone / "max_energy_range_uj"
        found[name] = _Package(
            name=name,
            counter=zone / "energy_uj",
            last_uj=_number(zone / "energy_uj"),
            range_uj=_number(limit) if limit.exists() else None,
        )
    return list(found.values())


def _advance(package: _Package) -> None:
    now = _number(package.counter)
    step = now - package.last_uj
    if step < 0:
        if package.range_uj is None:
            raise ValueError(f"the counter of {package.name} fell, and its range is not told")
        step += package.range_uj
    package.used_uj += step
    package.last_uj = now


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _unreadable(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return (
            "RAPL's counters may be read by root alone: make energy_uj of the powercap zones "
            "readable, or run as root"
        )
    if isinstance(error, OSError):
        return f"RAPL's counters cannot be read: {error.strerror}"
    return f"RAPL's counters cannot be read: {error}"
