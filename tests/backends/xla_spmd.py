"""Training of a case inside a child of `xla_child`: one device, or several that share a batch."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from bench.backends.base import World
from bench.backends.mesh import MeshDevice
from bench.backends.xla_device import XlaDevice
from bench.scenarios.schema import Knobs
from bench.worker import building, peers
from bench.worker.headline import read_loss
from tests.backends.xla_experiments import Figures
from tests.worker.a_job import a_case, a_job

STEPS = 4
WEIGHTS = "BENCH_TEST_WEIGHTS"
"""Names the file that takes the weights after the last step."""


def trained(device: XlaDevice, case: Knobs) -> Figures:
    """Train for some steps, and report the loss of each and what the device and engine say."""
    found: Figures = {}
    _, found["collectives"] = peers.meet(World(), device, Path(), case)
    built = building.build(a_job(Path(), a_case(case.model_dump())), World(), device)
    start = [p.detach().cpu().clone() for p in built.model.parameters()]
    found["losses"] = []
    for _ in range(STEPS):
        built.step.advance(1)
        built.step.fence()
        found["losses"].append(read_loss(built.step))
    weights = [p.detach().cpu() for p in built.model.parameters()]
    torch.save(weights, os.environ[WEIGHTS])
    pairs = zip(start, weights, strict=True)
    found["moved"] = max(float((before - after).abs().max()) for before, after in pairs)
    found["actual"] = built.engine.describe_actual() | device.describe()
    found["copies_agree"] = built.engine.copies_agree(built.model)
    if isinstance(device, MeshDevice):
        found["parts"] = [share.parts for share in device.shares()]
    found["executions"] = device.counters().executions
    if isinstance(device, MeshDevice):
        found["output_parts"] = [len(part) for part in _output(device, built)]
    found["graph"] = _graph(device, built)
    return found


def _output(device: MeshDevice, built: building.Built) -> list[torch.Tensor]:
    images, _labels = next(built.step.batches)
    with torch.no_grad():
        output = device.keep(built.model(images))
    device.fence()
    return device.copies(output)


def _graph(device: XlaDevice, built: building.Built) -> dict[str, int] | None:
    def period() -> list[torch.Tensor]:
        built.step.advance(1)
        return list(built.model.parameters())

    seen = device.matmul_types(period)
    return None if seen is None else seen[0]
