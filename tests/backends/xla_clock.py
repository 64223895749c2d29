"""Both clocks over one block, and what the device counts, inside a child of `xla_child`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch_xla.core.xla_model as xm

from bench.backends.base import World
from bench.backends.xla import XlaBackend
from bench.backends.xla_device import XlaDevice
from bench.measure import diagnose
from bench.measure.alignment import Alignment
from bench.measure.target import WALL_CLOCK, timed_advance
from bench.scenarios.schema import Case, Knobs, Measure
from bench.worker import building
from bench.worker.job import Job
from tests.backends import xla_child
from tests.backends.xla_experiments import Figures

_PERIODS = 8


def wide() -> torch.nn.Module:
    """Return a model whose few operators take long."""
    hidden = [torch.nn.Linear(768, 512), torch.nn.GELU()]
    for _ in range(3):
        hidden += [torch.nn.Linear(512, 512), torch.nn.GELU()]
    return torch.nn.Sequential(torch.nn.Flatten(), *hidden, torch.nn.Linear(512, 10))


def naive(device: XlaDevice, case: Knobs) -> Figures:
    """Read the naive clock between two fenced blocks of the same length. Unit: seconds."""
    with tempfile.TemporaryDirectory() as folder:
        step = building.build(_job(case, Path(folder)), World(), device).step
    alignment = Alignment(
        batches_per_execution=case.loader.batches_per_execution,
        first_cut=XlaBackend().first_cut(case),
    )
    step.advance(alignment.lead_in)
    step.fence()
    step.advance(_PERIODS * alignment.period)
    step.fence()
    compiles = device.counters().compiles
    found: list[tuple[float, float, float]] = []
    for _ in range(5):
        before = timed_advance(step, _PERIODS * alignment.period, WALL_CLOCK)
        read = diagnose.naive_clock(step, alignment, _PERIODS)
        found.append((before, read.seconds, read.median_s))
    after = timed_advance(step, _PERIODS * alignment.period, WALL_CLOCK)
    return {
        "steps": _PERIODS * alignment.period,
        "fenced_s": [before for before, _, _ in found] + [after],
        "naive_s": [seconds for _, seconds, _ in found],
        "naive_median_s": [median for _, _, median in found],
        "compiles": device.counters().compiles - compiles,
    }


def _job(case: Knobs, folder: Path) -> Job:
    return Job(
        case=Case(scenario="test", case="naive", knobs=case, measure=Measure()),
        backend="xla",
        probe=xla_child.ON_CPU,
        index=0,
        seed=0,
        session="session-1",
        round=0,
        diagnose=True,
        cache="none",
        folder=str(folder),
    )


def told(device: XlaDevice, case: Knobs) -> Figures:
    """Ask for memory, energy and clocks, also over a runtime that counts its memory."""
    energy, clocks = device.energy(), device.clocks()
    found: Figures = {
        "memory_bytes": device.memory_bytes(),
        "energy": [energy.joules, energy.reason],
        "clock_source": None if clocks is None else clocks.source,
    }
    device.reset_peak_memory()
    found["host_peak_bytes"] = device.peak_memory_bytes()
    counts = {"bytes_used": 100, "peak_bytes_used": 500}
    # As on a device that is not the host.
    device._on_cpu = False
    original, xm.get_memory_info = xm.get_memory_info, lambda _: counts
    try:
        found["peak_before_a_reset"] = device.peak_memory_bytes()
        device.reset_peak_memory()
        found["peak_that_did_not_rise"] = device.peak_memory_bytes()
        counts["peak_bytes_used"] = 600
        found["peak_that_rose"] = device.peak_memory_bytes()
        found["memory_counted"] = device.memory_bytes()
    finally:
        xm.get_memory_info = original
        device._on_cpu = True
    return found
