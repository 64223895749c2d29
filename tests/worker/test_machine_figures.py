"""What a real launch tells of memory, energy and clocks, and a leak planted into one."""

from __future__ import annotations

import itertools
import time
import timeit
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from bench.backends import cpu, host, host_clocks
from bench.backends.base import ClockRates, EnergyCount, World
from bench.backends.cpu import CpuDevice
from bench.results.record import CheckResult, Launch, Verdict
from bench.run.recording import judge
from bench.worker import session
from bench.worker.events import Events
from bench.worker.gauges import DeviceGauge
from tests.small_vit import SMALL_VIT
from tests.worker.a_job import a_case, a_job, give_memory_back

pytestmark = [pytest.mark.torch, pytest.mark.alone]

MIB = 2**20
RESETTABLE = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="this system resets no peak"
)
EIGHT = {"windows": 8, "budget_s": 1.6}


class Leaking(torch.nn.Module):
    """A model that keeps a mebibyte of every forward pass, as a list of losses might."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.net = timm.create_model(SMALL_VIT["model"], **arguments)
        self.kept: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.kept.append(torch.ones(MIB // 4))
        output: torch.Tensor = self.net(images)
        return output


class Spiking(Leaking):
    """Takes 300 MiB once, in the first forward pass, as an autotuner might."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.kept:
            self.kept.append(torch.ones(300 * MIB // 4)[:1].clone())
        output: torch.Tensor = self.net(images)
        return output


def leaking(num_classes: int = 10) -> Leaking:
    """Return what a user's factory would."""
    return Leaking(img_size=32, num_classes=num_classes, **SMALL_VIT["model_kwargs"])


def spiking(num_classes: int = 10) -> Spiking:
    return Spiking(img_size=32, num_classes=num_classes, **SMALL_VIT["model_kwargs"])


def launched(folder: Path, **knobs: Any) -> Launch:
    give_memory_back()
    launch = session.run(a_job(folder, a_case(knobs, EIGHT)), World(), Events(0), import_s=0.0)
    assert launch is not None
    return launch


def check(launch: Launch, name: str) -> tuple[CheckResult, str]:
    [found] = [check for check in launch.audit if check.name == name]
    return found.result, found.evidence


@RESETTABLE
def test_an_honest_launch_has_figures_and_flat_memory(tmp_path: Path) -> None:
    launch = launched(tmp_path)
    assert len(launch.memory_window_bytes) == len(launch.window_s[0])
    assert launch.peak_memory_bytes is not None
    assert launch.host_peak_rss_bytes is not None
    # Both are the resident memory here, and no window ended above their peak. (The kernel counts
    # pages per processor, and sums them up roughly.)
    assert launch.peak_memory_bytes == pytest.approx(launch.host_peak_rss_bytes, rel=0.02)
    assert max(launch.memory_window_bytes) <= launch.peak_memory_bytes + 4 * MIB
    assert check(launch, "memory_flat")[0] is CheckResult.PASS
    assert launch.energy is not None
    assert (launch.energy.joules is None) != (launch.energy.reason is None)


@RESETTABLE
def test_the_peak_is_that_of_the_windows_and_not_of_the_start(tmp_path: Path) -> None:
    launch = launched(tmp_path, model=f"{__name__}:spiking", model_kwargs={})
    assert launch.peak_memory_bytes is not None
    assert launch.peak_memory_bytes < host.rss_bytes() + 100 * MIB


def test_a_leak_of_a_mebibyte_a_step_makes_the_row_suspect(tmp_path: Path) -> None:
    launch = launched(tmp_path, model=f"{__name__}:leaking", model_kwargs={})
    result, evidence = check(launch, "memory_flat")
    assert result is CheckResult.FAIL, (evidence, launch.memory_window_bytes)
    grown = launch.memory_window_bytes[-1] - launch.memory_window_bytes[0]
    assert grown == pytest.approx(7 * launch.steps_per_window * MIB, rel=0.2)
    verdict, reason = judge([launch])
    assert verdict is Verdict.SUSPECT
    assert reason is not None
    assert "memory_flat" in reason


def test_energy_is_that_of_the_windows_and_names_its_counter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TenWatts:
        def read(self) -> EnergyCount:
            return EnergyCount(joules=10 * time.perf_counter(), source="a meter", period_s=0.001)

    monkeypatch.setattr(cpu, "Rapl", TenWatts)
    launch = launched(tmp_path)
    assert launch.energy is not None
    assert launch.energy.source == "a meter"
    assert launch.energy.joules == pytest.approx(10 * (launch.energy.seconds or 0), rel=0.01)
    windows_s = sum(launch.window_s[0])
    assert windows_s <= (launch.energy.seconds or 0) < 2 * windows_s + 1


def test_a_clock_that_falls_half_way_makes_the_row_noisy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Throttling:
        reads = 0

        def read(self) -> ClockRates:
            self.reads += 1
            return ClockRates("a driver", 3000.0 if self.reads <= 6 else 2000.0)

    monkeypatch.setattr(cpu, "HostClocks", lambda **_: Throttling())
    launch = launched(tmp_path)
    assert launch.clocks is not None
    assert (launch.clocks.mhz_min, launch.clocks.mhz_max) == (2000.0, 3000.0)
    result, evidence = check(launch, "clocks_held")
    assert result is CheckResult.FAIL
    assert evidence.startswith("the clock fell from 3000 to 2000 MHz")
    assert check(launch, "windows_steady")[0] is CheckResult.NOT_APPLICABLE


def test_a_neighbour_on_the_core_makes_the_row_noisy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = itertools.count()
    monkeypatch.setattr(host_clocks, "calculation_us", lambda: 90.0 if next(reads) % 3 else 150.0)
    launch = launched(tmp_path)
    assert launch.clocks is not None
    assert (launch.clocks.calculation_us_min, launch.clocks.calculation_us_max) == (90.0, 150.0)
    result, evidence = check(launch, "clocks_held")
    assert result is CheckResult.FAIL
    assert "a fixed calculation that took 90 us at the usual speed took up to 150 us" in evidence
    assert check(launch, "windows_steady")[0] is CheckResult.NOT_APPLICABLE


def test_an_even_pace_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_clocks, "calculation_us", lambda: 90.0)
    result, evidence = check(launched(tmp_path), "clocks_held")
    assert result is CheckResult.PASS
    assert evidence.endswith("a fixed calculation took 90 to 90 us")


def test_a_reading_takes_less_than_two_milliseconds() -> None:
    """Outside every clock, but the device rests meanwhile."""
    device = CpuDevice(threads=1)
    gauge = DeviceGauge(device)
    fastest = min(timeit.repeat(gauge.read, number=20, repeat=10)) / 20
    device.close()
    assert fastest < 0.002


def test_somebody_else_on_the_device_makes_the_launch_noisy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen before the windows or after them, and told once."""
    seen = itertools.chain([["one other process holds this GPU"]], itertools.repeat([]))
    monkeypatch.setattr(CpuDevice, "disturbances", lambda _self: next(seen))
    launch = launched(tmp_path)
    assert launch.noise.reasons.count("one other process holds this GPU") == 1
    result, evidence = check(launch, "machine_quiet")
    assert result is CheckResult.FAIL
    assert "one other process" in evidence
