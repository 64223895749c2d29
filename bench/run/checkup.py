"""What would spoil a measurement on this machine, found by looking; torch-free."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

from bench.backends import host
from bench.run import environment
from bench.scenarios.schema import Strict

_LOAD_SHARE = 0.1
_SCRATCH_BYTES = 2 * 2**30


class Finding(Strict):
    """One fact about the machine, and what to do where it would spoil a measurement."""

    subject: str
    fact: str
    remedy: str | None = None
    """Null: nothing to do."""


def examine(
    proc: Path = Path("/proc"),
    sysfs: Path = Path("/sys/devices/system/cpu"),
    cgroup: Path = Path("/sys/fs/cgroup"),
) -> list[Finding]:
    """Return the findings, in the order a person would fix them."""
    return [
        _processor(),
        _load(),
        _governor(sysfs),
        _container(cgroup),
        _memory(),
        _counters(proc),
    ]


def _processor() -> Finding:
    visible, total = host.cpus_visible(), os.cpu_count() or 1
    fact = f"{host.cpu_model()}, {visible} of {total} CPUs visible"
    return Finding(subject="processor", fact=fact)


def _load() -> Finding:
    try:
        load = os.getloadavg()[0]
    except OSError:
        return Finding(subject="load", fact="this system does not tell its load")
    fact = f"{load:.2f} over the last minute on {host.cpus_visible()} CPUs"
    if load > _LOAD_SHARE * host.cpus_visible():
        return Finding(
            subject="load",
            fact=fact,
            remedy="other work takes time from the measurement: stop it, or expect noisy rows",
        )
    return Finding(subject="load", fact=fact)


def _governor(sysfs: Path) -> Finding:
    governor = environment.governor(sysfs)
    if governor is None:
        return Finding(
            subject="governor",
            fact="the system shows no frequency governor (usual in a virtual machine)",
        )
    if governor != "performance":
        return Finding(
            subject="governor",
            fact=f"{governor}: clocks follow the load",
            remedy="sudo cpupower frequency-set -g performance",
        )
    return Finding(subject="governor", fact=governor)


def _container(cgroup: Path) -> Finding:
    cpus, memory = environment.cpu_limit(cgroup), environment.memory_limit_bytes(cgroup)
    limits = []
    if cpus is not None:
        limits.append(f"{cpus:g} CPUs")
    if memory is not None:
        limits.append(f"{memory / 2**30:.1f} GiB")
    if not limits:
        return Finding(subject="container limits", fact="none found")
    remedy = None
    if cpus is not None and cpus < host.cpus_visible():
        remedy = (
            "the quota stops all threads once it is used up: set threads to at most the limit, or "
            "pin the container to whole CPUs (cpuset) instead"
        )
    return Finding(subject="container limits", fact=", ".join(limits), remedy=remedy)


def _memory() -> Finding:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    fact = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    if memory.available < _SCRATCH_BYTES:
        return Finding(
            subject="memory", fact=fact, remedy="free some: swapping would be timed as training"
        )
    if swap.used > _SCRATCH_BYTES:
        fact += f", {swap.used / 2**30:.1f} GiB swapped out"
    return Finding(subject="memory", fact=fact)


def _counters(proc: Path) -> Finding:
    if platform.system() != "Linux":
        return Finding(
            subject="noise counters",
            fact="co-tenants, steal and pressure can be read on Linux only: rows cannot be noisy",
            remedy="compare launches by eye, or measure on Linux",
        )
    missing = [
        name
        for name, path in (
            ("CPU times", proc / "stat"),
            ("pressure stall information", proc / "pressure/cpu"),
            ("out-of-memory kills", proc / "vmstat"),
        )
        if not os.access(path, os.R_OK)
    ]
    if missing:
        return Finding(
            subject="noise counters",
            fact=f"missing: {', '.join(missing)}",
            remedy="a kernel with PSI, and a container that shows /proc, give them",
        )
    return Finding(subject="noise counters", fact="all readable")
