"""`bench doctor`'s findings, over planted machines: each fault there, and each fault absent."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil
import pytest

from bench.backends import host
from bench.run import checkup
from bench.run.checkup import Finding

GIB_KB = 2**20


class Machine:
    """Roots of /proc, sysfs and cgroup with nothing wrong in them."""

    def __init__(self, root: Path) -> None:
        self.proc, self.sysfs, self.cgroup = root / "proc", root / "cpu", root / "cgroup"
        self.cgroup.mkdir()
        write(self.proc / "stat", "cpu 1 2 3 4\n")
        write(self.proc / "pressure/cpu", "some avg10=0.00\n")
        self.free(8)
        self.govern("performance")

    def free(self, available: float, swapped: float = 0.0) -> None:
        sizes = {
            "MemTotal": 16.0,
            "MemFree": available,
            "MemAvailable": available,
            "Buffers": 0.0,
            "Cached": 0.0,
            "Shmem": 0.0,
            "Active": 0.0,
            "Inactive": 0.0,
            "SwapTotal": 8.0,
            "SwapFree": 8.0 - swapped,
        }
        lines = [f"{name}: {int(size * GIB_KB)} kB\n" for name, size in sizes.items()]
        write(self.proc / "meminfo", "".join(lines))
        write(self.proc / "vmstat", "pswpin 0\npswpout 0\noom_kill 0\n")

    def govern(self, governor: str) -> None:
        write(self.sysfs / "cpu0/cpufreq/scaling_governor", f"{governor}\n")

    def finding(self, subject: str) -> Finding:
        (found,) = [
            finding
            for finding in checkup.examine(self.proc, self.sysfs, self.cgroup)
            if finding.subject == subject
        ]
        return found


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(found.proc))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(host, "cpus_visible", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    return found


def test_a_machine_without_a_fault_has_no_remedy(machine: Machine) -> None:
    found = checkup.examine(machine.proc, machine.sysfs, machine.cgroup)
    assert [finding.remedy for finding in found] == [None] * 6
    facts = {finding.subject: finding.fact for finding in found}
    assert facts["load"] == "0.10 over the last minute on 4 CPUs"
    assert facts["governor"] == "performance"
    assert facts["container limits"] == "none found"
    assert facts["memory"] == "8.0 of 16.0 GiB free"
    assert facts["noise counters"] == "all readable"


def test_other_work_on_the_machine_is_to_be_stopped(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.41, 0.0, 0.0))
    found = machine.finding("load")
    assert found.fact == "0.41 over the last minute on 4 CPUs"
    assert found.remedy is not None
    assert "stop it" in found.remedy


def test_a_system_that_does_not_tell_its_load_says_so(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untold() -> tuple[float, float, float]:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", untold)
    assert machine.finding("load").fact == "this system does not tell its load"


def test_a_governor_that_follows_the_load_is_told_with_the_command(machine: Machine) -> None:
    machine.govern("powersave")
    found = machine.finding("governor")
    assert found.fact == "powersave: clocks follow the load"
    assert found.remedy == "sudo cpupower frequency-set -g performance"


def test_no_governor_is_a_fact_without_a_remedy(machine: Machine) -> None:
    (machine.sysfs / "cpu0/cpufreq/scaling_governor").unlink()
    found = machine.finding("governor")
    assert "shows no frequency governor" in found.fact
    assert found.remedy is None


@pytest.mark.parametrize(
    ("files", "fact", "remedied"),
    [
        ({"cpu.max": "150000 100000", "memory.max": "3221225472"}, "1.5 CPUs, 3.0 GiB", True),
        ({"cpu.max": "400000 100000"}, "4 CPUs", False),
        ({"cpu.max": "max 100000", "memory.max": "max"}, "none found", False),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, "0.5 CPUs", True),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "none found", False),
        ({"memory/memory.limit_in_bytes": "1073741824"}, "1.0 GiB", False),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, "none found", False),
    ],
)
def test_a_quota_below_the_visible_cpus_stops_threads(
    machine: Machine, files: dict[str, str], fact: str, remedied: bool
) -> None:
    for name, text in files.items():
        write(machine.cgroup / name, f"{text}\n")
    found = machine.finding("container limits")
    assert found.fact == fact
    assert ("set threads to at most the limit" in (found.remedy or "")) is remedied


def test_too_little_memory_is_to_be_freed(machine: Machine) -> None:
    machine.free(1.5)
    found = machine.finding("memory")
    assert found.fact == "1.5 of 16.0 GiB free"
    assert found.remedy == "free some: swapping would be timed as training"


def test_what_was_swapped_out_is_told(machine: Machine) -> None:
    machine.free(8, swapped=3)
    found = machine.finding("memory")
    assert found.fact == "8.0 of 16.0 GiB free, 3.0 GiB swapped out"
    assert found.remedy is None


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("stat", "CPU times"),
        ("pressure/cpu", "pressure stall information"),
        ("vmstat", "out-of-memory kills"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*swap memory stats:RuntimeWarning")
def test_a_counter_that_is_missing_is_named(machine: Machine, file: str, name: str) -> None:
    (machine.proc / file).unlink()
    found = machine.finding("noise counters")
    assert found.fact == f"missing: {name}"
    assert found.remedy == "a kernel with PSI, and a container that shows /proc, give them"


def test_another_system_has_no_counters(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup.platform, "system", lambda: "Darwin")
    found = machine.finding("noise counters")
    assert "on Linux only" in found.fact
    assert "measure on Linux" in (found.remedy or "")
