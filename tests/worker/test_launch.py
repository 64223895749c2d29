"""One launch of the 3 ms ViT on the CPU, from its job to its number."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.audit.checks import CHECKS
from bench.backends.base import World
from bench.backends.cpu import CpuDevice
from bench.measure.noise import NoiseMonitor
from bench.results.record import CheckResult, Launch, Weight
from bench.worker import headline, session
from bench.worker.events import Events
from bench.workload import models
from bench.workload.data import draw_pool
from tests.worker.a_job import a_case, a_job

pytestmark = pytest.mark.torch

BUSY_CHECKS = {"steady_state"}
"""What a machine that others use may fail: these tests share theirs."""
ON_THE_DEVICE = "the batches lie on the device already"


def launched(folder: Path, *, diagnose: bool = False, **settings: Any) -> Launch:
    """Run a launch in this process."""
    case = a_case(settings)
    job = a_job(folder, case, diagnose=diagnose, seed=11)
    launch = session.run(job, World(), Events(0), import_s=0.25)
    assert launch is not None
    return launch


def failed_checks(launch: Launch) -> set[str]:
    """Return the failed checks but for what the machine and the loader are to blame for."""
    return {
        check.name
        for check in launch.audit
        if check.result is CheckResult.FAIL and check.weight is Weight.SUSPECT
    }


def test_a_training_launch_reports_its_windows_and_passes_its_audit(tmp_path: Path) -> None:
    launch = launched(tmp_path, gradient_accumulation=2)
    assert launch.seed == 11
    assert launch.phases.import_s == 0.25
    assert launch.micro_batches_per_window == 2 * launch.steps_per_window
    assert launch.samples_per_window == 8 * launch.micro_batches_per_window
    [windows] = launch.window_s
    assert len(windows) == 3
    assert sum(windows) <= (launch.phases.measure_s or 0)
    assert [check.name for check in launch.audit[: len(CHECKS)]] == [c.__name__ for c in CHECKS]
    assert failed_checks(launch) <= BUSY_CHECKS
    assert launch.loss_first is not None
    assert launch.loss_last is not None
    assert launch.loss_last < launch.loss_first
    assert launch.diagnostics is None
    assert launch.executions is None
    assert launch.actual["threads"] == 1


@pytest.mark.alone
def test_the_number_agrees_with_an_independent_clock(tmp_path: Path) -> None:
    knobs = a_case().knobs
    torch.set_num_threads(1)
    model = models.build(knobs).module
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    batches = itertools.cycle(draw_pool(knobs, 32, seed=0))

    def rate(steps: int) -> float:
        begin = time.perf_counter()
        for images, labels in itertools.islice(batches, steps):
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        return steps * knobs.batch_size / (time.perf_counter() - begin)

    rate(20)
    ratios = []
    for _ in range(3):
        before = rate(100)
        ours = launched(tmp_path).samples_per_s
        ratios.append(ours / statistics.fmean([before, rate(100)]))
    # Others may use this machine: benchmarks/overhead.py is the one that looks closely.
    assert 0.7 < statistics.median(ratios) < 1.4


def test_inference_has_no_loss_and_its_diagnostics_hold_latencies(tmp_path: Path) -> None:
    launch = launched(tmp_path, diagnose=True, task="infer")
    assert failed_checks(launch) <= BUSY_CHECKS
    assert launch.loss_first is None
    assert launch.loss_last is None
    diagnosed = launch.diagnostics
    assert diagnosed is not None
    latency = diagnosed.latency
    assert latency is not None
    assert latency.steps > 20
    assert latency.p50_ms is not None
    assert latency.p95_ms is not None
    assert 0 < latency.p50_ms <= latency.p95_ms
    assert diagnosed.skipped == []


def test_the_diagnostic_pass_finds_the_loaders_share_and_the_twin_without_it(
    tmp_path: Path,
) -> None:
    # Decoding eight photographs takes several times as long as training on them at 32 x 32.
    launch = launched(tmp_path, diagnose=True, data={"source": "jpeg", "images": 8})
    diagnosed = launch.diagnostics
    assert diagnosed is not None
    assert diagnosed.loader_wait_share is not None
    assert 0.5 < diagnosed.loader_wait_share < 1
    assert diagnosed.device_twin_samples_per_s is not None
    assert diagnosed.device_twin_samples_per_s > 1.5 * launch.samples_per_s
    [bound] = [check for check in launch.audit if check.name == "loader_bound"]
    assert (bound.result, bound.weight) == (CheckResult.FAIL, Weight.REMARK)
    assert "the loader holds it back" in bound.evidence
    assert diagnosed.naive_samples_per_s is not None
    # Work is done when a call returns, so on this device the naive clock is right.
    assert 0.5 < diagnosed.naive_samples_per_s / launch.samples_per_s < 2
    assert diagnosed.naive_step_ms_median is not None
    assert diagnosed.naive_step_ms_median > 0
    assert diagnosed.doubling_ratio is not None
    assert 1 < diagnosed.doubling_ratio < 4
    assert diagnosed.latency is None


def test_a_device_that_keeps_time_times_its_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Work is done when a call returns, so that the host's clock is this device's.
    monkeypatch.setattr(CpuDevice, "mark", lambda _self: time.perf_counter())
    monkeypatch.setattr(CpuDevice, "between_s", lambda _self, earlier, later: later - earlier)
    launch = launched(tmp_path, diagnose=True, data={"source": "device"})
    assert launch.diagnostics is not None
    found = launch.diagnostics.device_steps
    assert found is not None
    assert found.steps == launch.steps_per_window
    assert found.p50_ms is not None
    assert 0.9 < found.sum_s / found.host_s <= 1
    assert launch.diagnostics.skipped == ["loader share and device twin: " + ON_THE_DEVICE]


def test_batches_on_the_device_have_no_loader_to_wait_for(tmp_path: Path) -> None:
    launch = launched(tmp_path, diagnose=True, data={"source": "device"})
    diagnosed = launch.diagnostics
    assert diagnosed is not None
    assert diagnosed.loader_wait_share is None
    assert diagnosed.device_twin_samples_per_s is None
    assert ON_THE_DEVICE in diagnosed.skipped[0]
    assert diagnosed.device_steps is None


def test_the_noise_monitor_counts_whoever_launched_us_as_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, ...]] = []

    class Spy(NoiseMonitor):
        def __init__(
            self, extra_pids: Iterable[int] = (), cpus: Collection[int] | None = None
        ) -> None:
            told.append(tuple(extra_pids))
            super().__init__(extra_pids=told[-1], cpus=cpus)

    monkeypatch.setattr(headline, "NoiseMonitor", Spy)
    launched(tmp_path)
    assert told == [(os.getppid(),)]
