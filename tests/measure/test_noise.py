"""Whose CPU time it was: exact on canned /proc trees, and once with a real co-tenant."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from bench.measure.noise import NoiseMonitor
from bench.results.record import Noise
from tests.measure.fakes import FakeClock

US, SIBLING, CHILD, LAUNCHER, STRANGER = 100, 101, 102, 50, 900


class FakeProc:
    """A /proc tree of two CPUs, whose counters are written by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("loadavg", "0.00 0.01 0.05 1/100 1234\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def cpus(self, *ticks: tuple[int, ...]) -> None:
        """Give each CPU its user nice system idle iowait irq softirq steal guest guest_nice."""
        total = " ".join(str(sum(column)) for column in zip(*ticks, strict=True))
        lines = [f"cpu  {total}"]
        lines += [f"cpu{i} " + " ".join(map(str, cpu)) for i, cpu in enumerate(ticks)]
        self.write("stat", "\n".join([*lines, "intr 12345 0 0", "ctxt 99", ""]))

    def process(
        self,
        pid: int,
        *,
        group: int,
        parent: int = 1,
        used: tuple[int, int, int, int] = (0, 0, 0, 0),
        started: int = 10,
        switches: int = 0,
    ) -> None:
        """Write a process: `used` is its user, system, and waited-for children's two times."""
        times = " ".join(map(str, used))
        self.write(
            f"{pid}/stat",
            f"{pid} (a) b (c) S {parent} {group} {group} 0 -1 4194560 1 0 0 0 {times} 20 0 1 0 "
            f"{started} 1000 200\n",
        )
        self.write(
            f"{pid}/task/{pid}/status",
            f"Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t{switches}\n",
        )

    def end(self, pid: int) -> None:
        for path in sorted((self.root / str(pid)).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (self.root / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    tree = FakeProc(tmp_path)
    tree.cpus((100, 0, 50, 1000, 5, 0, 0, 0, 0, 0), (200, 0, 10, 900, 5, 0, 0, 0, 0, 0))
    tree.process(1, group=1)
    tree.process(US, group=US, used=(50, 10, 0, 0))
    tree.process(STRANGER, group=STRANGER, used=(500, 5, 0, 0))
    return tree


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def monitor(
    proc: FakeProc,
    clock: FakeClock,
    *extra: int,
    cpus: tuple[int, ...] = (0, 1),
    cgroup: Path | None = None,
) -> NoiseMonitor:
    """Watch the fake tree; without a container unless one is given."""
    container = proc.root / "no-cgroup" if cgroup is None else cgroup
    return NoiseMonitor(extra, proc=proc.root, cgroup=container, pid=US, cpus=cpus, clock=clock)


def one_second_later(proc: FakeProc, clock: FakeClock, working: int = 150, steal: int = 0) -> None:
    """Two CPUs give 200 ticks, of which processes used so many and the hypervisor took so many."""
    clock.spend(1.0)
    proc.cpus(
        (100 + working, 0, 50, 1000 + 200 - working - steal, 5, 0, 0, steal, 0, 0),
        (200, 0, 10, 900, 5, 0, 0, 0, 0, 0),
    )


def test_the_co_tenants_share_is_what_processes_used_less_what_ours_used(
    proc: FakeProc, clock: FakeClock
) -> None:
    watch = monitor(proc, clock)
    before = watch.snapshot()
    one_second_later(proc, clock, working=150)
    proc.process(US, group=US, used=(130, 30, 0, 0))
    noise = watch.between(before, watch.snapshot())
    assert noise.co_tenant_share == (150 - 100) / 200
    assert noise.steal_share == 0.0
    assert noise.reasons == [
        "other processes used 25.0% of the 2 CPUs this launch may use (limit 5%): stop them, or "
        "keep them off these CPUs (taskset, cpuset)"
    ]


def test_a_machine_of_our_own_gives_no_reason(proc: FakeProc, clock: FakeClock) -> None:
    watch = monitor(proc, clock)
    before = watch.snapshot()
    one_second_later(proc, clock, working=110)
    proc.process(US, group=US, used=(140, 20, 0, 0))
    noise = watch.between(before, watch.snapshot())
    assert (noise.co_tenant_share, noise.reasons) == (0.05, [])


def test_the_group_the_extra_processes_and_their_descendants_are_ours(
    proc: FakeProc, clock: FakeClock
) -> None:
    proc.process(SIBLING, group=US)
    proc.process(CHILD, group=CHILD, parent=SIBLING)
    proc.process(LAUNCHER, group=LAUNCHER)
    proc.process(51, group=51, parent=LAUNCHER)
    alone, with_launcher = monitor(proc, clock), monitor(proc, clock, LAUNCHER)
    first, second = alone.snapshot(), with_launcher.snapshot()
    one_second_later(proc, clock, working=150)
    for pid in (SIBLING, CHILD, LAUNCHER, 51):
        group, parent = {CHILD: (CHILD, SIBLING), 51: (51, LAUNCHER)}.get(pid, (pid, 1))
        proc.process(pid, group=US if pid == SIBLING else group, parent=parent, used=(25, 5, 0, 0))
    assert alone.between(first, alone.snapshot()).co_tenant_share == (150 - 60) / 200
    assert with_launcher.between(second, with_launcher.snapshot()).co_tenant_share == 30 / 200


def test_a_child_that_ended_counts_as_ours_once(proc: FakeProc, clock: FakeClock) -> None:
    proc.process(CHILD, group=US, parent=US, used=(40, 0, 0, 0))
    watch = monitor(proc, clock)
    before = watch.snapshot()
    one_second_later(proc, clock, working=100)
    proc.end(CHILD)
    # It used 60 more before it ended; its parent, which waited for it, now carries all 100.
    proc.process(US, group=US, used=(90, 10, 100, 0))
    assert watch.between(before, watch.snapshot()).co_tenant_share == (100 - 40 - 60) / 200


def test_a_pid_used_again_by_a_stranger_is_not_ours(proc: FakeProc, clock: FakeClock) -> None:
    proc.process(CHILD, group=US, parent=1, used=(0, 0, 0, 0), started=10)
    watch = monitor(proc, clock)
    before = watch.snapshot()
    one_second_later(proc, clock, working=100)
    proc.process(CHILD, group=STRANGER, parent=1, used=(100, 0, 0, 0), started=99)
    assert watch.between(before, watch.snapshot()).co_tenant_share == 100 / 200


def test_only_our_cpus_are_looked_at(proc: FakeProc, clock: FakeClock) -> None:
    watch = monitor(proc, clock, cpus=(1,))
    before = watch.snapshot()
    clock.spend(1.0)
    proc.cpus((199, 0, 50, 1001, 5, 0, 0, 0, 0, 0), (210, 0, 10, 990, 5, 0, 0, 0, 0, 0))
    noise = watch.between(before, watch.snapshot())
    assert noise.co_tenant_share == 0.1
    assert "10.0% of the CPU this launch may use" in noise.reasons[0]


def test_interrupts_and_waiting_for_disks_are_nobodys(proc: FakeProc, clock: FakeClock) -> None:
    watch = monitor(proc, clock)
    before = watch.snapshot()
    clock.spend(1.0)
    proc.cpus((100, 0, 50, 1000, 65, 20, 20, 0, 0, 0), (200, 0, 10, 1000, 5, 0, 0, 0, 0, 0))
    assert watch.between(before, watch.snapshot()).co_tenant_share == 0.0


def test_what_the_hypervisor_took_is_told(proc: FakeProc, clock: FakeClock) -> None:
    watch = monitor(proc, clock)
    before = watch.snapshot()
    one_second_later(proc, clock, working=0, steal=6)
    noise = watch.between(before, watch.snapshot())
    assert (noise.co_tenant_share, noise.steal_share) == (0.0, 0.03)
    assert noise.reasons == [
        "the hypervisor withheld 3.0% of the 2 CPUs this launch may use (limit 2%): use a "
        "dedicated host, or measure again when it is quieter"
    ]


def test_shares_of_a_short_span_are_not_given(proc: FakeProc, clock: FakeClock) -> None:
    proc.write("pressure/cpu", "some avg10=1.00 avg60=0.50 avg300=0.10 total=1000000\n")
    watch = monitor(proc, clock)
    before = watch.snapshot()
    clock.spend(0.499)
    proc.cpus((190, 0, 60, 1000, 5, 0, 0, 0, 0, 0), (200, 0, 10, 1000, 5, 0, 0, 0, 0, 0))
    assert watch.between(before, watch.snapshot()) == Noise(involuntary_switches=0)


def test_a_quota_that_stopped_the_container_makes_the_launch_noisy(
    proc: FakeProc, clock: FakeClock, tmp_path: Path
) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    counts = "nr_periods 10\nnr_throttled 2\nthrottled_usec {}\n"
    (cgroup / "cpu.stat").write_text(counts.format(500_000))
    watch = monitor(proc, clock, cgroup=cgroup)
    before = watch.snapshot()
    one_second_later(proc, clock, working=0)
    (cgroup / "cpu.stat").write_text(counts.format(750_000))
    noise = watch.between(before, watch.snapshot())
    assert noise.throttled_share == 0.25
    assert noise.reasons == [
        "the container's CPU quota stopped this launch for 25.0% of the time (limit 2%): set "
        "threads to the quota, or give the container whole CPUs (cpuset) instead"
    ]


def test_a_quota_that_is_never_used_up_disturbs_nothing(
    proc: FakeProc, clock: FakeClock, tmp_path: Path
) -> None:
    cgroup = tmp_path / "cgroup"
    (cgroup / "cpu").mkdir(parents=True)
    (cgroup / "cpu" / "cpu.stat").write_text("nr_throttled 0\nthrottled_time 0\n")
    watch = monitor(proc, clock, cgroup=cgroup)
    before = watch.snapshot()
    one_second_later(proc, clock, working=0)
    noise = watch.between(before, watch.snapshot())
    assert (noise.throttled_share, noise.reasons) == (0.0, [])


def test_pressure_is_the_share_of_time_in_which_a_task_waited(
    proc: FakeProc, clock: FakeClock
) -> None:
    line = "some avg10=1.00 avg60=0.50 avg300=0.10 total={}\nfull avg10=0.00 total=7\n"
    proc.write("pressure/cpu", line.format(1_000_000))
    watch = monitor(proc, clock)
    before = watch.snapshot()
    one_second_later(proc, clock)
    proc.write("pressure/cpu", line.format(1_250_000))
    assert watch.between(before, watch.snapshot()).pressure_share == 0.25


def test_involuntary_switches_are_those_of_our_threads(proc: FakeProc, clock: FakeClock) -> None:
    proc.process(US, group=US, switches=30)
    proc.process(STRANGER, group=STRANGER, switches=5)
    watch = monitor(proc, clock)
    before = watch.snapshot()
    proc.process(US, group=US, switches=42)
    proc.process(CHILD, group=US, switches=4)
    proc.process(STRANGER, group=STRANGER, switches=5000)
    assert watch.between(before, watch.snapshot()).involuntary_switches == 12 + 4


def test_clock_rates_are_those_of_our_cpus(proc: FakeProc, clock: FakeClock) -> None:
    def rates(*mhz: float) -> str:
        return "\n".join(f"processor\t: {i}\ncpu MHz\t\t: {rate}" for i, rate in enumerate(mhz))

    watch = monitor(proc, clock, cpus=(0, 2))
    proc.write("cpuinfo", rates(2600.5, 800, 3100))
    before = watch.snapshot()
    proc.write("cpuinfo", rates(1200.25, 4000, 2900))
    noise = watch.between(before, watch.snapshot())
    assert (noise.cpu_mhz_min, noise.cpu_mhz_max) == (1200.25, 3100.0)


def test_without_proc_everything_is_unknown_and_nothing_is_wrong(
    tmp_path: Path, clock: FakeClock
) -> None:
    watch = NoiseMonitor(proc=tmp_path / "absent", cgroup=tmp_path / "absent", clock=clock)
    before = watch.snapshot()
    clock.spend(10.0)
    assert watch.between(before, watch.snapshot()) == Noise()


def test_files_of_an_unknown_shape_are_unknown_and_nothing_is_wrong(
    proc: FakeProc, clock: FakeClock
) -> None:
    proc.write("stat", "cpu\ncpu0 1 2\n\ncpu1 a b c\n")
    proc.write("cpuinfo", "processor : x\ncpu MHz : fast\n")
    proc.write("pressure/cpu", "some nothing\n")
    proc.write("77/stat", "77 (half)")
    watch = monitor(proc, clock)
    before = watch.snapshot()
    clock.spend(1.0)
    assert watch.between(before, watch.snapshot()) == Noise(involuntary_switches=0)


@contextmanager
def process_of_its_own_group(code: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux's /proc")
def test_a_real_busy_process_of_another_group_is_a_co_tenant() -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    busy_loop = f"import os\nos.sched_setaffinity(0, {cpus})\nwhile True: pass"
    with (
        process_of_its_own_group("import time; time.sleep(60)") as ours,
        process_of_its_own_group(busy_loop) as busy,
    ):
        stranger = NoiseMonitor(pid=ours.pid, cpus=cpus)
        friend = NoiseMonitor((busy.pid,), pid=ours.pid, cpus=cpus)
        first, second = stranger.snapshot(), friend.snapshot()
        started_s = psutil.Process(busy.pid).cpu_times().user
        begin = time.perf_counter()
        time.sleep(1.2)
        used_s = psutil.Process(busy.pid).cpu_times().user - started_s
        expected = used_s / (time.perf_counter() - begin) / len(cpus)
        as_stranger = stranger.between(first, stranger.snapshot())
        as_friend = friend.between(second, friend.snapshot())
    assert as_stranger.co_tenant_share is not None
    assert as_friend.co_tenant_share is not None
    # One of two CPUs would be 0.5; other load on this machine may leave the loop less of one.
    difference = as_stranger.co_tenant_share - as_friend.co_tenant_share
    assert difference == pytest.approx(expected, abs=0.05)
    assert expected > 0.1 / len(cpus)
    assert any("other processes used" in reason for reason in as_stranger.reasons)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux's /proc")
def test_processes_may_end_at_any_moment() -> None:
    watch = NoiseMonitor()
    before = watch.snapshot()
    for _ in range(20):
        child = subprocess.Popen(["true"])
        watch.snapshot()
        child.wait()
    noise = watch.between(before, watch.snapshot())
    assert noise.involuntary_switches is not None
