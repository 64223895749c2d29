"""What the rest of the machine did while we measured, and whether it spoilt the number.

A `NoiseMonitor` takes snapshots outside windows and compares two of them. It knows Linux's /proc
and gives nulls everywhere else. It must not know what was measured: a disturbed number is marked,
never changed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import proc as procfs
from bench.measure.proc import CpuTime, Process
from bench.measure.target import WALL_CLOCK, Clock
from bench.results.record import Noise

CO_TENANT_LIMIT = 0.05
"""Share of our CPUs that others may use before a launch counts as noisy."""
STEAL_LIMIT = 0.02
"""Share of our CPUs that the hypervisor may take before a launch counts as noisy."""
THROTTLED_LIMIT = 0.02
"""Share of the time for which a quota may stop us before a launch counts as noisy."""
MIN_SPAN_S = 0.5
"""Shares over less are not given: the kernel counts CPU time in hundredths of a second."""


@dataclass(frozen=True)
class Snapshot:
    """The machine's counters at one moment."""

    at_s: float
    cpu: CpuTime | None
    everyone: Mapping[tuple[int, int], Process]
    ours: frozenset[tuple[int, int]]
    """Which of them belong to this launch."""
    switches: Mapping[tuple[int, int], int]
    """Involuntary context switches of our threads, by (pid, thread)."""
    pressure_s: float | None
    throttled_s: float | None
    mhz: list[float] = field(default_factory=list)


class NoiseMonitor:
    """Compares the machine's counters between two moments.

    Ours are the processes of our process group and the extra ones, with all their descendants;
    everybody else is a co-tenant. CPU time of a process that ends between two snapshots still
    counts as ours if its parent is ours and waits for it.

    Clock rates are read at the two moments, not in between, and context switches leave out threads
    that ended: both are evidence, not measurements.

    Args:
        extra_pids: Processes outside our group that work for this launch: a launcher or the other
            ranks. Never a shell, whose other children are not ours.
        proc: Where /proc is.
        pid: A process of the group that is ours; this one by default.
        cgroup: Where the container's own limits and counters are.
        cpus: Numbers of the CPUs to look at; those this process may use by default.
        clock: Where the time is read.
    """

    def __init__(
        self,
        extra_pids: Collection[int] = (),
        *,
        proc: Path = Path("/proc"),
        cgroup: Path = Path("/sys/fs/cgroup"),
        pid: int | None = None,
        cpus: Collection[int] | None = None,
        clock: Clock = WALL_CLOCK,
    ) -> None:
        self._extra_pids = frozenset(extra_pids)
        self._proc = proc
        self._cgroup = cgroup
        self._pid = os.getpid() if pid is None else pid
        self._cpus = frozenset(_own_cpus() if cpus is None else cpus)
        self._clock = clock

    def snapshot(self) -> Snapshot:
        """Read the counters. It takes some milliseconds, so never inside a window."""
        everyone = procfs.processes(self._proc)
        members = procfs.family(everyone, self._pid, self._extra_pids)
        return Snapshot(
            at_s=self._clock.now(),
            cpu=procfs.cpu_time(self._proc, self._cpus),
            everyone={process.key: process for process in everyone.values()},
            ours=frozenset(everyone[pid].key for pid in members),
            switches={
                (pid, thread): count
                for pid in members
                for thread, count in procfs.involuntary_switches(self._proc, pid).items()
            },
            pressure_s=procfs.cpu_pressure_s(self._proc),
            throttled_s=procfs.throttled_s(self._cgroup),
            mhz=procfs.cpu_mhz(self._proc, self._cpus),
        )

    def between(self, before: Snapshot, after: Snapshot) -> Noise:
        """Return what happened between two snapshots of this monitor, and why it was too much."""
        span_s = after.at_s - before.at_s
        co_tenant = steal = pressure = throttled = None
        if span_s >= MIN_SPAN_S:
            co_tenant, steal = _shares(before, after)
            if before.pressure_s is not None and after.pressure_s is not None:
                pressure = _share(after.pressure_s - before.pressure_s, span_s)
            if before.throttled_s is not None and after.throttled_s is not None:
                throttled = max(0.0, after.throttled_s - before.throttled_s) / span_s
        rates = before.mhz + after.mhz
        return Noise(
            co_tenant_share=co_tenant,
            steal_share=steal,
            throttled_share=throttled,
            pressure_share=pressure,
            involuntary_switches=_switches(before, after),
            cpu_mhz_min=min(rates, default=None),
            cpu_mhz_max=max(rates, default=None),
            reasons=self._reasons(co_tenant, steal, throttled),
        )

    def _reasons(
        self, co_tenant: float | None, steal: float | None, throttled: float | None
    ) -> list[str]:
        count = len(self._cpus)
        cpus = "the CPU" if count == 1 else f"the {count} CPUs"
        reasons = []
        if co_tenant is not None and co_tenant > CO_TENANT_LIMIT:
            reasons.append(
                f"other processes used {co_tenant:.1%} of {cpus} this launch may use (limit "
                f"{CO_TENANT_LIMIT:.0%}): stop them, or keep them off these CPUs (taskset, cpuset)"
            )
        if steal is not None and steal > STEAL_LIMIT:
            reasons.append(
                f"the hypervisor withheld {steal:.1%} of {cpus} this launch may use (limit "
                f"{STEAL_LIMIT:.0%}): use a dedicated host, or measure again when it is quieter"
            )
        if throttled is not None and throttled > THROTTLED_LIMIT:
            reasons.append(
                f"the container's CPU quota stopped this launch for {throttled:.1%} of the time "
                f"(limit {THROTTLED_LIMIT:.0%}): set threads to the quota, or give the container "
                "whole CPUs (cpuset) instead"
            )
        return reasons


def _shares(before: Snapshot, after: Snapshot) -> tuple[float | None, float | None]:
    """Return the co-tenants' and the hypervisor's share of the CPU time there was."""
    if before.cpu is None or after.cpu is None:
        return None, None
    there_was = after.cpu.total - before.cpu.total
    if there_was <= 0:
        return None, None
    steal = _share(after.cpu.steal - before.cpu.steal, there_was)
    ours = _our_ticks(before, after)
    if ours is None:
        return None, steal
    return _share(after.cpu.working - before.cpu.working - ours, there_was), steal


def _our_ticks(before: Snapshot, after: Snapshot) -> int | None:
    """Return the CPU time of our processes; null where none of them could be seen.

    The sum over processes and the children they waited for, taken after and before, counts each
    tick once: what a child had used before moves to its parent when it ends.
    """
    ours = before.ours | after.ours
    if not ours:
        return None
    return sum(p.ticks for key, p in after.everyone.items() if key in ours) - sum(
        p.ticks for key, p in before.everyone.items() if key in ours
    )


def _switches(before: Snapshot, after: Snapshot) -> int | None:
    if not after.switches:
        return None
    return sum(
        max(0, count - before.switches.get(thread, 0)) for thread, count in after.switches.items()
    )


def _share(part: float, whole: float) -> float:
    """Return part / whole within 0 and 1, which counters read one after another can overstep."""
    return min(1.0, max(0.0, part / whole))


def _own_cpus() -> Collection[int]:
    """Return the CPUs this process may use; on systems that cannot tell, all of them."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)
