"""What the host itself is: its processor, the CPUs we may use, and the memory of a process.

Shared by the adapters; torch-free.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path


def cpu_model(proc: Path = Path("/proc")) -> str:
    """Return the processor's marketing name, or the architecture where the system keeps none."""
    try:
        for line in (proc / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    except OSError:
        pass  # not Linux, or a container without /proc: the architecture still names it
    return platform.processor() or platform.machine() or "unknown CPU"


def processor() -> str:
    """Return the processor with the CPUs we may use: together they are the device of a CPU row."""
    count = cpus_visible()
    return f"{cpu_model()}, {count} CPU{'' if count == 1 else 's'}"


def cpus_visible() -> int:
    """Return how many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Return this process's peak resident memory so far. Unit: bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
