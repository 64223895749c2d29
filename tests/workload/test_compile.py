"""Compilation: torch.compile really compiles, and the device counts it."""

from __future__ import annotations

import itertools

import pytest
import torch

from bench.backends.cpu import CpuBackend, CpuDevice
from bench.workload import optimizers
from bench.workload.engines import PlainEngine
from bench.workload.step import TrainStep
from tests.workload.build import Flat, batch, knobs

pytestmark = [
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.skipif(
        not CpuBackend().probe().facts.get("cxx"), reason="inductor needs a C++ compiler"
    ),
]


def test_inductor_compiles_forward_and_backward_once_and_computes_the_same() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    eager, module = Flat(), Flat()
    module.load_state_dict(eager.state_dict())
    wanted = knobs(compile="inductor", optimizer="sgd", learning_rate=0.1)
    device = CpuDevice(1)

    def step_of(driven: torch.nn.Module, owner: torch.nn.Module) -> TrainStep:
        return TrainStep(
            device,
            driven,
            itertools.cycle([batch()]),
            wanted,
            engine=PlainEngine(),
            optimizer=optimizers.build(wanted, owner.parameters()),
        )

    compiled = step_of(device.compile(module, wanted), module)
    assert compiled.compiles() == 0
    compiled.advance(1)
    after_one = compiled.compiles()
    assert after_one >= 1
    seconds = device.counters().compile_s
    assert seconds is not None
    assert seconds > 0
    compiled.advance(3)
    assert compiled.compiles() == after_one

    step_of(eager, eager).advance(4)
    torch.testing.assert_close(module.head.weight, eager.head.weight)

    # Another shape is another graph, and a compilation in the middle of things is seen.
    compiled.batches = itertools.cycle([batch(size=7)])
    compiled.advance(1)
    assert compiled.compiles() > after_one
    device.close()
