"""Linux's /proc as numbers: CPU time by CPU and by process, pressure, switches, clock rates.

Readers only: each returns what one file says, or null where the file is missing or says it in a way
we do not know. What the numbers mean for a measurement is not decided here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

_STAT_FIELDS = 8
"""user nice system idle iowait irq softirq steal; guest time is part of user."""


@dataclass(frozen=True)
class CpuTime:
    """Cumulative time of a set of CPUs. Unit: clock ticks."""

    working: int
    """user, nice and system: the time that processes used. Interrupts belong to nobody."""
    steal: int
    total: int


@dataclass(frozen=True)
class Process:
    """One process; (pid, started) is its identity, as pids are used again."""

    pid: int
    started: int
    """Unit: clock ticks after boot."""
    parent: int
    group: int
    ticks: int
    """CPU time of the process and of its children that it waited for. Unit: clock ticks."""

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from another process with the same pid."""
        return self.pid, self.started


def cpu_time(proc: Path, cpus: Collection[int]) -> CpuTime | None:
    """Return the time of the CPUs with these numbers; null where none of them is listed."""
    text = _read(proc / "stat") or ""
    working = steal = total = found = 0
    for match in re.finditer(r"^cpu(\d+) ([\d ]+)$", text, re.M):
        ticks = [int(number) for number in match[2].split()[:_STAT_FIELDS]]
        if int(match[1]) not in cpus or len(ticks) < _STAT_FIELDS:
            continue
        found += 1
        working += sum(ticks[:3])
        steal += ticks[7]
        total += sum(ticks)
    return CpuTime(working=working, steal=steal, total=total) if found else None


def processes(proc: Path) -> dict[int, Process]:
    """Return every process that can be seen, by pid. One that ends meanwhile is left out."""
    try:
        names = os.listdir(proc)  # noqa: PTH208 - a Path per process costs more than reading it
    except OSError:
        return {}
    found = (_process(proc, int(name)) for name in names if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def family(all_of_them: Mapping[int, Process], pid: int, extra_pids: Collection[int]) -> set[int]:
    """Return the pids of a process's group, of the extra ones, and of all their descendants."""
    own = all_of_them.get(pid)
    members = {pid, *extra_pids} & all_of_them.keys()
    if own is not None:
        members |= {p.pid for p in all_of_them.values() if p.group == own.group}
    children: dict[int, list[int]] = {}
    for process in all_of_them.values():
        children.setdefault(process.parent, []).append(process.pid)
    pending = list(members)
    while pending:
        fresh = set(children.get(pending.pop(), ())) - members
        members |= fresh
        pending.extend(fresh)
    return members


def involuntary_switches(proc: Path, pid: int) -> dict[int, int]:
    """Return how often each thread of a process lost its CPU to another, by thread number."""
    counts: dict[int, int] = {}
    try:
        threads = list((proc / str(pid) / "task").iterdir())
    except OSError:
        return counts
    for thread in threads:
        match = re.search(
            r"^nonvoluntary_ctxt_switches:\s*(\d+)", _read(thread / "status") or "", re.M
        )
        if match is not None:
            counts[int(thread.name)] = int(match[1])
    return counts


def cpu_pressure_s(proc: Path) -> float | None:
    """Return the time for which some task waited for a CPU since boot. Unit: seconds."""
    match = re.search(r"^some .*\btotal=(\d+)", _read(proc / "pressure" / "cpu") or "", re.M)
    return None if match is None else int(match[1]) / 1e6


def throttled_s(cgroup: Path) -> float | None:
    """Return the time for which the container's CPU quota has stopped it; null: it keeps no count.

    Unit: seconds, summed over CPUs.
    """
    for file, pattern, unit in (
        ("cpu.stat", r"^throttled_usec (\d+)", 1e6),
        ("cpu/cpu.stat", r"^throttled_time (\d+)", 1e9),
    ):
        match = re.search(pattern, _read(cgroup / file) or "", re.M)
        if match is not None:
            return int(match[1]) / unit
    return None


def cpu_mhz(proc: Path, cpus: Collection[int]) -> list[float]:
    """Return the present clock rates of these CPUs; empty where the kernel does not tell."""
    rates: list[float] = []
    cpu = -1
    for line in (_read(proc / "cpuinfo") or "").splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "processor" and value.isdigit():
            cpu = int(value)
        elif name == "cpu MHz" and cpu in cpus and re.fullmatch(r"\d+(\.\d+)?", value):
            rates.append(float(value))
    return rates


def _process(proc: Path, pid: int) -> Process | None:
    text = _read(proc / str(pid) / "stat")
    if text is None:
        return None
    # The command's name may hold spaces and brackets, so the fields are counted from its end.
    fields = text.rpartition(")")[2].split()
    try:
        return Process(
            pid=pid,
            started=int(fields[19]),
            parent=int(fields[1]),
            group=int(fields[2]),
            ticks=sum(int(field) for field in fields[11:15]),
        )
    except (IndexError, ValueError):
        return None


def _read(path: Path) -> str | None:
    """Return a file's text; null where it is not there (any more) or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
