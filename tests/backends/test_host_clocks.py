"""The host's clocks over a fake sysfs and /proc."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.backends import host_clocks
from bench.backends.base import ClockRates
from bench.backends.host_clocks import HostClocks

HOT = "the processor was too hot (package_throttle_count rose)"
PACE_US = 87.5
UNTOLD = ClockRates(None, None, {}, PACE_US)
HOT_CORE = "a core was too hot (core_throttle_count rose)"


class Machine:
    """Four CPUs, and a thread that runs on one of them."""

    def __init__(self, root: Path) -> None:
        self.system = root / "cpu"
        self.proc = root / "proc"
        (self.proc / "thread-self").mkdir(parents=True)
        self.runs_on(0)

    def runs_on(self, cpu: int) -> None:
        # The name may hold what looks like the end of a name.
        fields = ["R", *["7"] * 35, str(cpu), "0", "0"]
        text = f"1234 (pt) main) {' '.join(fields)}\n"
        (self.proc / "thread-self" / "stat").write_text(text, encoding="ascii")

    def cpufreq(self, *mhz: float) -> None:
        for cpu, rate in enumerate(mhz):
            self._write(cpu, "cpufreq/scaling_cur_freq", str(int(rate * 1000)))

    def heat(self, kind: str, *counts: int) -> None:
        for cpu, count in enumerate(counts):
            self._write(cpu, f"thermal_throttle/{kind}_throttle_count", str(count))

    def cpuinfo(self, *mhz: float) -> None:
        text = "".join(f"processor\t: {i}\ncpu MHz\t\t: {rate}\n\n" for i, rate in enumerate(mhz))
        (self.proc / "cpuinfo").write_text(text, encoding="ascii")

    def read(self, cpus: int = 4) -> ClockRates:
        return HostClocks(system=self.system, proc=self.proc, cpus=range(cpus)).read()

    def _write(self, cpu: int, name: str, value: str) -> None:
        path = self.system / f"cpu{cpu}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", encoding="ascii")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(host_clocks, "calculation_us", lambda: PACE_US)
    return Machine(tmp_path)


def test_the_rate_is_that_of_the_cpu_the_thread_runs_on(machine: Machine) -> None:
    machine.cpufreq(800, 4600, 1200, 4400)
    machine.runs_on(3)
    assert machine.read() == ClockRates(
        "scaling_cur_freq of the training thread's CPU", 4400.0, {}, PACE_US
    )


def test_without_cpufreq_cpuinfo_tells_the_rate_of_the_same_cpu(machine: Machine) -> None:
    machine.cpuinfo(2596.134, 2000.0, 3000.5)
    machine.runs_on(1)
    found = machine.read()
    assert (found.mhz, found.source) == (2000.0, "cpu MHz in cpuinfo of the training thread's CPU")


def test_thermal_counters_are_told_by_reason_over_all_our_cpus(machine: Machine) -> None:
    machine.heat("core", 1, 2, 3, 99)
    machine.heat("package", 5, 5, 5, 99)
    machine.heat("package_power_limit", 7, 7, 7, 7)
    assert machine.read(cpus=3) == ClockRates(
        "thermal throttle counters", None, {HOT_CORE: 6, HOT: 15}, PACE_US
    )
    machine.heat("package", 6, 6, 6, 99)
    later = machine.read(cpus=3)
    assert later.throttled == {HOT_CORE: 6, HOT: 18}


def test_a_rate_comes_with_the_counters(machine: Machine) -> None:
    machine.cpufreq(3000)
    machine.heat("core", 4)
    found = machine.read(cpus=1)
    assert (found.mhz, found.throttled) == (3000.0, {HOT_CORE: 4})


def test_a_machine_that_tells_nothing_has_no_clock(machine: Machine) -> None:
    assert machine.read() == UNTOLD
    machine.cpufreq(1.0)
    (machine.system / "cpu0/cpufreq/scaling_cur_freq").write_text("<unknown>\n", encoding="ascii")
    assert machine.read() == UNTOLD
    machine.cpuinfo(3000.0)
    machine.runs_on(2)
    assert machine.read() == UNTOLD


def test_a_thread_that_has_no_stat_has_no_rate(machine: Machine) -> None:
    machine.cpufreq(3000)
    (machine.proc / "thread-self" / "stat").unlink()
    assert machine.read() == UNTOLD


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows clocks in files")
def test_on_this_machine_a_rate_is_a_rate_of_processors() -> None:
    found = HostClocks().read()
    assert found.mhz is None or 100 < found.mhz < 10_000
