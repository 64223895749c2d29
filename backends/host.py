"""What the host itself is: its processor, the CPUs we may use, and the memory of a process.

Shared by the adapters; torch-free.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Collection
from pathlib import Path

import psutil

from bench.scenarios.schema import Knobs

_SELF = Path("/proc/self")
_CPUS = Path("/sys/devices/system/cpu")
CPUS_OF_RANKS_VARIABLE = "BENCH_CPUS_OF_RANKS"
"""The CPUs of each rank of this machine, where somebody else's launcher binds them
(`bench.backends.bound`): numbers with commas between, ranks with semicolons."""
STAND_IN_VARIABLE = "BENCH_NODES_ON_ONE_MACHINE"
"""Set to 1, ranks of one machine may stand for those of several nodes, for tests: a row says so."""
_RESET_PEAK = "5"
"""What resets VmHWM, and nothing else, when written to clear_refs (proc_pid_clear_refs(5))."""


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
    """Return the processor with the CPUs that the ranks of this machine may use.

    Together they are the device of a CPU row.
    """
    count = cpus_visible()
    return f"{cpu_model()}, {count} CPU{'' if count == 1 else 's'}"


def boot_id(proc: Path = Path("/proc")) -> str | None:
    """Return what tells this machine from all others, until it starts anew; null: nothing does.

    All containers of a machine have the same. Never to be recorded. Source: random(4).
    """
    try:
        return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except OSError:
        return None  # not Linux


def nodes_stand_in() -> bool:
    """Return whether ranks of one machine may stand for those of several nodes, as in a test."""
    return os.environ.get(STAND_IN_VARIABLE) == "1"


def cpus_allowed() -> frozenset[int]:
    """Return the numbers of the CPUs this process may run on; where none is told, of all."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpus_by_core(devices: Path = _CPUS) -> list[int]:
    """Return the CPUs this process may run on: one of each core first, then the cores' second ones.

    Where the system does not tell which CPUs share a core, each is taken for one.
    Source: Documentation/admin-guide/cputopology.rst of the kernel.
    """
    ordered = [(place, cpu) for core in cores(devices) for place, cpu in enumerate(core)]
    return [cpu for _, cpu in sorted(ordered)]


def cores(devices: Path = _CPUS) -> list[list[int]]:
    """Return the CPUs this process may run on, core by core, as `cpus_by_core` tells cores."""
    found: dict[str, list[int]] = {}
    for cpu in sorted(cpus_allowed()):
        try:
            siblings = devices / f"cpu{cpu}" / "topology" / "thread_siblings_list"
            core = siblings.read_text(encoding="ascii").strip()
        except OSError:
            core = str(cpu)
        found.setdefault(core, []).append(cpu)
    return list(found.values())


def shares(ranks: int, devices: Path = _CPUS) -> list[list[int]] | None:
    """Return the CPUs of each of a machine's ranks: as many for each, and none for two.

    They are whole cores, of neighbouring numbers, as far as there are enough. Null: there are fewer
    CPUs than ranks.
    """
    there = cores(devices)
    if len(there) < ranks:
        there = [[cpu] for core in there for cpu in core]
    each = len(there) // ranks
    if each == 0:
        return None
    return [
        sorted(cpu for core in there[rank * each : (rank + 1) * each] for cpu in core)
        for rank in range(ranks)
    ]


def keep_on(cpus: Collection[int]) -> None:
    """Keep this process, with the threads it has and those it will start, on these CPUs.

    Raises:
        OSError: none of them is there for it.
    """
    for thread in Path("/proc/self/task").iterdir():
        # One that ends meanwhile needs no place.
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), cpus)


def cpus_of_ranks() -> list[frozenset[int]]:
    """Return the CPUs of each rank that a launcher has bound on this machine; empty: of none."""
    told = os.environ.get(CPUS_OF_RANKS_VARIABLE, "")
    return [frozenset(map(int, cpus.split(","))) for cpus in told.split(";") if cpus]


def cpus_visible() -> int:
    """Return how many CPUs this process may run on, and the ranks bound beside it."""
    return len(cpus_allowed().union(*cpus_of_ranks()))


def threads_per_rank(knobs: Knobs) -> int:
    """Return the compute threads of one rank: as asked, else an equal share of its CPUs.

    It shares them with all ranks of the machine, or with those that a launcher has bound to some of
    the same.
    """
    if knobs.threads is not None:
        return knobs.threads
    own = cpus_allowed()
    sharing = sum(1 for cpus in cpus_of_ranks() if cpus & own) or knobs.local_processes
    return max(1, len(own) // sharing)


def environment(knobs: Knobs) -> dict[str, str]:
    """Return the variables that give a rank its threads, and keep gloo on the loopback.

    Host names need not resolve for ranks of one machine.
    """
    threads = str(threads_per_rank(knobs))
    chosen = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    alone = knobs.nodes == 1
    if alone and knobs.engine != "plain" and Path("/sys/class/net/lo").exists():
        chosen["GLOO_SOCKET_IFNAME"] = "lo"
    return chosen


def rss_bytes() -> int:
    """Return this process's resident memory now. Unit: bytes."""
    return int(psutil.Process().memory_info().rss)


def anonymous_bytes(process: Path = _SELF) -> int:
    """Return what this process holds without the files it maps; elsewhere its resident memory.

    A system short of memory drops the pages of mapped files (torch's libraries are hundreds of
    megabytes) and reads them again: resident memory then moves with nothing allocated or freed.
    What was swapped out is still held. Source: proc_pid_status(5). Unit: bytes.
    """
    status = _status_bytes(process)
    parts = [status[name] for name in ("RssAnon", "RssShmem", "VmSwap") if name in status]
    return sum(parts) if len(parts) == 3 else rss_bytes()  # noqa: PLR2004 - all of them


def reset_peak_rss(process: Path = _SELF) -> bool:
    """Begin the peak of this process's resident memory anew; false: the system does not let us."""
    try:
        (process / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False  # not Linux, or a kernel without page monitoring
    return True


def peak_rss_bytes(process: Path = _SELF) -> int | None:
    """Return the peak of this process's resident memory; null: the system does not tell it.

    Since the last `reset_peak_rss`, or since the process began. (getrusage's ru_maxrss is never
    reset: it would go on telling the peak of the start-up.) Unit: bytes.
    """
    return _status_bytes(process).get("VmHWM")


def _status_bytes(process: Path) -> dict[str, int]:
    """Return what the system tells in kilobytes of a process; nothing where it tells nothing."""
    try:
        status = (process / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return {}
    found = [line.split() for line in status.splitlines() if line.endswith(" kB")]
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in found}
