"""Lies of the machine: the number is what the clock says, and not what the device can do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.measure.noise import NoiseMonitor
from bench.results.record import CheckResult, Clocks, Launch, Noise, Verdict, Weight
from bench.run.recording import judge
from bench.workload import models
from tests.audit.honest import FAIL, PASS, found
from tests.lies.real_runs import caught, launched
from tests.measure.fakes import FakeClock

pytestmark = [pytest.mark.torch, pytest.mark.alone]

LIFETIME_S = 60
BURN = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        end = time.monotonic() + {LIFETIME_S}
        print(os.getpid(), flush=True)
        os.close(1)
        while time.monotonic() < end:
            pass
    os._exit(0)
"""


def disturbing(launch: Launch) -> set[str]:
    """Return the failed checks that make a row noisy."""
    return {
        check.name
        for check in launch.audit
        if check.result is CheckResult.FAIL and check.weight is Weight.NOISY
    }


@pytest.fixture
def co_tenant() -> Iterator[None]:
    """A stranger's process on every processor: neither our child nor of our group."""
    pids = []
    for _ in range(os.cpu_count() or 1):
        started = subprocess.run(
            [sys.executable, "-c", BURN], stdout=subprocess.PIPE, text=True, check=True, timeout=30
        )
        pids.append(int(started.stdout))
    time.sleep(0.2)  # until the scheduler has spread them
    yield
    for pid in pids:
        os.kill(pid, 9)


@pytest.mark.usefixtures("co_tenant")
def test_a_co_tenant_is_caught_by_machine_quiet(tmp_path: Path) -> None:
    # Long enough for the kernel's counters, whatever the strangers leave of the processors.
    launch = launched(tmp_path, diagnose=False, budget_s=2.0)
    assert "machine_quiet" in disturbing(launch), launch.noise
    verdict, reason = judge([launch])
    assert verdict is Verdict.NOISY
    assert reason is not None
    assert "other processes used" in reason


def stopped_by_a_quota(folder: Path, seconds: float) -> Noise:
    """Watch ten seconds in which the kernel counts so many in which our container was stopped."""
    clock, counters = FakeClock(), folder / "cpu.stat"
    monitor = NoiseMonitor(proc=folder, cgroup=folder, clock=clock)
    counters.write_text("nr_throttled 3\nthrottled_usec 5000000\n")
    before = monitor.snapshot()
    clock.spend(10.0)
    counters.write_text(f"nr_throttled 9\nthrottled_usec {5_000_000 + round(1e6 * seconds)}\n")
    return monitor.between(before, monitor.snapshot())


def test_a_container_that_is_stopped_by_its_quota_is_caught_by_machine_quiet(
    tmp_path: Path,
) -> None:
    check = found("machine_quiet", noise=stopped_by_a_quota(tmp_path, 2.0))
    assert (check.result, check.weight) == (FAIL, Weight.NOISY)
    assert "the container's CPU quota stopped this launch for 20.0%" in check.evidence


def test_a_container_within_its_quota_is_not(tmp_path: Path) -> None:
    assert found("machine_quiet", noise=stopped_by_a_quota(tmp_path, 0.1)).result is not FAIL


def test_a_throttled_clock_is_caught_by_clocks_held() -> None:
    clocks = Clocks(source="a driver", mhz_min=900.0, mhz_max=1900.0, throttled=["too hot"])
    check = found("clocks_held", clocks=clocks)
    assert (check.result, check.weight) == (FAIL, Weight.NOISY)
    assert "too hot" in check.evidence


def test_a_clock_that_holds_is_not() -> None:
    clocks = Clocks(source="a driver", mhz_min=1890.0, mhz_max=1900.0)
    held = (1900.0,) * 5 + (1890.0,) * 5
    assert found("clocks_held", clocks=clocks, clock_mhz=held).result is PASS


def test_a_clock_that_falls_without_a_reason_is_caught_by_clocks_held() -> None:
    clocks = Clocks(source="a driver", mhz_min=1500.0, mhz_max=1900.0)
    fell = (1900.0,) * 5 + (1500.0,) * 5
    assert found("clocks_held", clocks=clocks, clock_mhz=fell).result is FAIL


def test_a_leak_is_caught_by_memory_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of losses that nobody empties: here a mebibyte per step."""
    build, kept = models.build, []

    def leaking(*arguments: object) -> models.Model:
        model = build(*arguments)  # type: ignore[arg-type]
        model.module.register_forward_hook(lambda *_: kept.append(torch.ones(2**18)))
        return model

    monkeypatch.setattr(models, "build", leaking)
    assert "memory_flat" in caught(launched(tmp_path, diagnose=False))
