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

from bench.results.record import CheckResult, Clocks, Launch, Noise, Verdict, Weight
from bench.run.recording import judge
from bench.workload import models
from tests.audit.honest import FAIL, found
from tests.lies.real_runs import caught, launched

pytestmark = pytest.mark.torch

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


def test_a_container_that_is_stopped_by_its_quota_is_caught_by_machine_quiet() -> None:
    check = found("machine_quiet", noise=Noise(throttled_share=0.2, reasons=["the quota"]))
    assert (check.result, check.weight) == (FAIL, Weight.NOISY)


def test_a_throttled_clock_is_caught_by_clocks_held() -> None:
    clocks = Clocks(source="a driver", mhz_min=900.0, mhz_max=1900.0, throttled=["too hot"])
    check = found("clocks_held", clocks=clocks)
    assert (check.result, check.weight) == (FAIL, Weight.NOISY)
    assert "too hot" in check.evidence


def test_a_clock_that_holds_is_not() -> None:
    clocks = Clocks(source="a driver", mhz_min=1890.0, mhz_max=1900.0)
    assert found("clocks_held", clocks=clocks).result is not FAIL


def test_a_leak_is_caught_by_memory_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of losses that nobody empties: here a mebibyte per step."""
    build, kept = models.build, []

    def leaking(*arguments: object) -> models.Model:
        model = build(*arguments)  # type: ignore[arg-type]
        model.module.register_forward_hook(lambda *_: kept.append(torch.ones(2**18)))
        return model

    monkeypatch.setattr(models, "build", leaking)
    assert "memory_flat" in caught(launched(tmp_path, diagnose=False))
