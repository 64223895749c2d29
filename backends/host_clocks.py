"""Clock rates of the host's processors and what held them back, as Linux shows both; torch-free."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from bench.backends import host
from bench.backends.base import ClockRates
from bench.backends.host_pace import calculation_us

_HEAT = {
    "core": "a core was too hot (core_throttle_count rose)",
    "package": "the processor was too hot (package_throttle_count rose)",
}
_PROCESSOR = 36
"""Place of the last CPU among the fields of a thread's stat that follow its name (proc(5))."""
_MOST_BYTES = 2**20


class HostClocks:
    """Reads the clock and the pace of the CPU this thread runs on, and all thermal counters.

    One CPU, since some kernels sleep for 10 ms to find the rate of one that rests; that of the
    thread that trains has just been at work.

    Args:
        system: Where the CPUs' folders of sysfs are.
        proc: Where /proc is.
        cpus: Numbers of the CPUs; those this process may use by default.
        paced: Make the fixed calculation; not where threads of our own go on beside it.
    """

    def __init__(
        self,
        *,
        system: Path = Path("/sys/devices/system/cpu"),
        proc: Path = Path("/proc"),
        cpus: Collection[int] | None = None,
        paced: bool = True,
    ) -> None:
        self._paced = paced
        self._system = system
        self._stat = str(proc / "thread-self" / "stat")
        self._cpuinfo = str(proc / "cpuinfo")
        numbers = sorted(host.cpus_allowed() if cpus is None else cpus)
        self._heat = {
            reason: [
                str(system / f"cpu{cpu}" / "thermal_throttle" / f"{kind}_throttle_count")
                for cpu in numbers
            ]
            for kind, reason in _HEAT.items()
        }

    def read(self) -> ClockRates:
        """Return the rate and the counts so far, where the system tells them, and the pace."""
        throttled = {}
        for reason, files in self._heat.items():
            counts = [count for count in map(_number, files) if count is not None]
            if counts:
                throttled[reason] = sum(counts)
        pace = calculation_us() if self._paced else None
        rate = self._rate()
        if rate is not None:
            source, mhz = rate
            return ClockRates(f"{source} of the training thread's CPU", mhz, throttled, pace)
        counted = "thermal throttle counters" if throttled else None
        return ClockRates(counted, None, throttled, pace)

    def _rate(self) -> tuple[str, float] | None:
        """Return the name of the source, and the rate in MHz; null: the system does not tell."""
        fields = (_text(self._stat) or "").rpartition(")")[2].split()
        if len(fields) <= _PROCESSOR:
            return None
        cpu = fields[_PROCESSOR]
        khz = _number(str(self._system / f"cpu{cpu}" / "cpufreq" / "scaling_cur_freq"))
        if khz is not None:
            return "scaling_cur_freq", khz / 1e3
        block = re.compile(rf"^processor\s*:\s*{cpu}$.*?^cpu MHz\s*:\s*([\d.]+)$", re.M | re.S)
        found = block.search(_text(self._cpuinfo) or "")
        return None if found is None else ("cpu MHz in cpuinfo", float(found[1]))


def _number(path: str) -> int | None:
    text = (_text(path) or "").strip()
    return int(text) if text.isdigit() else None


def _text(path: str) -> str | None:
    """Return a file's text; a hundred of them in a millisecond, which pathlib would not."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None  # the kernel or the virtual machine does not tell
    try:
        pieces = []
        while piece := os.read(descriptor, _MOST_BYTES):
            pieces.append(piece)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return b"".join(pieces).decode("ascii", "replace")
