"""The health pass on real torch_xla, inside a child of `xla_child`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.backends.base import Probe, World
from bench.backends.xla import XlaBackend
from bench.backends.xla_device import XlaDevice
from bench.measure.alignment import Alignment
from bench.scenarios.schema import Case, Knobs, Measure
from bench.worker import building
from bench.worker.events import Events
from bench.worker.health import watch
from bench.worker.job import Job
from bench.workload.step import TrainStep
from tests.backends.xla_experiments import Figures

_ON_CPU = Probe(backend="xla", available=True, facts={"pjrt": "CPU"})


def passes(device: XlaDevice, knobs: Knobs) -> Figures:
    """Run the pass for 4 and for 12 updates, and count what was compiled and executed."""
    return {str(updates): _pass(device, knobs, updates) for updates in (4, 12)}


def _pass(device: XlaDevice, knobs: Knobs, updates: int) -> Figures:
    case = Case(scenario="test", case="health", knobs=knobs, measure=Measure())
    job = Job(
        case=case,
        backend="xla",
        probe=_ON_CPU,
        index=0,
        seed=3,
        session="session-1",
        round=0,
        diagnose=False,
        cache="none",
        folder=str(Path(tempfile.gettempdir())),
        purpose="health",
    )
    alignment = Alignment(
        batches_per_execution=knobs.loader.batches_per_execution,
        gradient_accumulation=knobs.gradient_accumulation,
        first_cut=XlaBackend().first_cut(knobs),
    )
    step = building.build(job, World(), device).step
    assert isinstance(step, TrainStep)
    # Building places the weights, which is a graph of its own.
    device.fence()
    before = device.counters()
    found = watch(step, alignment, updates, Events(0))
    after = device.counters()
    return {
        "losses": found.losses,
        "gradient_norm": found.gradient_norm,
        "nonfinite_gradients": found.nonfinite_gradients,
        "updates": found.updates,
        "compiles": after.compiles - before.compiles,
        "executions": (after.executions or 0) - (before.executions or 0),
        "micro_batches": step.micro_batches,
        "fallbacks": dict(after.fallbacks),
    }
