"""The look inside a step, measured inside a child of `xla_child`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.backends.base import World
from bench.backends.xla import XlaBackend
from bench.backends.xla_device import XlaDevice
from bench.measure.alignment import Alignment
from bench.scenarios.schema import Case, Knobs, Measure
from bench.worker import building, inspection
from tests.backends.xla_experiments import Figures
from tests.worker.a_job import a_job


def look(device: XlaDevice, case: Knobs) -> Figures:
    """Build the case, step as a launch does, and look; count what the look compiles and runs."""
    alignment = Alignment(
        batches_per_execution=case.loader.batches_per_execution,
        gradient_accumulation=case.gradient_accumulation,
        first_cut=XlaBackend().first_cut(case),
    )
    job = a_job(Path(), Case(scenario="test", case="look", knobs=case, measure=Measure()))
    built = building.build(job, World(), device)
    for micro_batches in (alignment.lead_in, 2 * alignment.period):
        built.step.advance(micro_batches)
        built.step.fence()
    before = device.counters()
    found = inspection.run(case, built, device, alignment, built.step.batches)
    after = device.counters()
    built.step.advance(alignment.period)
    built.step.fence()
    return found.model_dump() | {
        "compiles": after.compiles - before.compiles,
        "executions": (after.executions or 0) - (before.executions or 0),
        "compiles_later": device.counters().compiles - after.compiles,
        "executions_per_period": alignment.executions_per_period,
    }


def look_at_clipping(device: XlaDevice, case: Knobs) -> Figures:
    """Look at a step whose gradients are clipped before the update."""
    clip(device, lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, 1e-3))
    return look(device, case)


def look_at_clipping_of_the_data(device: XlaDevice, case: Knobs) -> Figures:
    """Look at a step whose gradients are clipped where no version of a tensor counts it."""

    def clamp(parameters: list[torch.Tensor]) -> None:
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.data.clamp_(-1e-6, 1e-6)

    clip(device, clamp)
    return look(device, case)


def clip(device: XlaDevice, change: Any) -> None:
    def clipped(optimizer: torch.optim.Optimizer) -> None:
        change(optimizer.param_groups[0]["params"])
        optimizer.step()

    device.step_optimizer = clipped  # type: ignore[method-assign]


def look_without_autocast(device: XlaDevice, case: Knobs) -> Figures:
    """Look at a step under an autocast of another device type."""
    device.autocast = lambda _knobs: torch.autocast(  # type: ignore[method-assign]
        "cpu", dtype=torch.bfloat16
    )
    return look(device, case)
