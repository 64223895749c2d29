"""The planning half of the CPU: precisions and optimizers that only other devices have."""

from __future__ import annotations

from typing import Any

import pytest

from bench.backends.base import Probe
from bench.backends.cpu import CpuBackend
from bench.scenarios.schema import Knobs


def refused(fp16_instructions: bool, **values: Any) -> dict[str, str]:
    facts = {"cxx": "g++", "fp16_instructions": fp16_instructions}
    probe = Probe(backend="cpu", available=True, device_count=1, facts=facts)
    found = CpuBackend().refusals(Knobs.model_validate(values), probe)
    return {refusal.knob: refusal.reason for refusal in found}


@pytest.mark.parametrize(
    ("values", "knob", "word"),
    [
        ({"precision": "tf32"}, "precision", "NVIDIA"),
        ({"precision": "bf16-env"}, "precision", "torch_xla"),
        ({"precision": "amp-fp16"}, "precision", "fp16 instructions"),
        ({"optimizer_impl": "capturable"}, "optimizer_impl", "CUDA graphs"),
        ({"neuron": {"functionalization": False}}, "neuron.functionalization", "AWS's Neuron"),
        ({"precision": "fp8-tensorwise"}, "precision", "emulated, and slower"),
        ({"precision": "fp8-rowwise"}, "precision", "no processor multiplies float8"),
    ],
)
def test_what_the_cpu_has_not_is_refused_with_its_reason(
    values: dict[str, Any], knob: str, word: str
) -> None:
    refusals = refused(False, **values)
    assert list(refusals) == [knob]
    assert word in refusals[knob]


def test_float8_is_emulated_where_the_probe_was_told_to() -> None:
    told = Probe(backend="cpu", available=True, facts={"float8_emulated": True})
    assert CpuBackend().refusals(Knobs(precision="fp8-rowwise"), told) == []


def test_ranks_are_counted_against_the_cpus_that_the_probe_saw() -> None:
    alone = Probe(backend="cpu", available=True, facts={"cpus": 1})
    [refusal] = CpuBackend().refusals(Knobs(processes=2), alone)
    assert (refusal.knob, refusal.value) == ("processes", 2)
    assert "only 1 CPUs are visible" in refusal.reason
    many = Probe(backend="cpu", available=True, facts={"cpus": 2})
    assert CpuBackend().refusals(Knobs(processes=2), many) == []


def test_a_processor_with_fp16_instructions_runs_it() -> None:
    assert refused(True, precision="amp-fp16") == {}
