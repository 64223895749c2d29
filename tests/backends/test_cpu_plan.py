"""The planning half of the CPU: precisions and optimizers that only other devices have."""

from __future__ import annotations

from typing import Any

import pytest

from bench.backends.base import Precompilation, Probe
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
    told = {"float8_emulated": True, "torchao": True}
    probe = Probe(backend="cpu", available=True, facts=told)
    assert CpuBackend().refusals(Knobs(precision="fp8-rowwise"), probe) == []


@pytest.mark.parametrize("precision", ["fp8-rowwise", "fp8-tensorwise"])
def test_float8_is_refused_where_nothing_is_there_to_emulate_it(precision: Any) -> None:
    told = {"float8_emulated": True, "torchao": False}
    probe = Probe(backend="cpu", available=True, facts=told)
    [refusal] = CpuBackend().refusals(Knobs(precision=precision), probe)
    assert (refusal.knob, refusal.value) == ("precision", precision)
    assert 'not installed: pip install "accelbench[fp8]"' in refusal.reason
    assert CpuBackend().refusals(Knobs(precision="fp32"), probe) == []


def test_ranks_are_counted_against_the_cpus_that_the_probe_saw() -> None:
    alone = Probe(backend="cpu", available=True, facts={"cpus": 1})
    [refusal] = CpuBackend().refusals(Knobs(processes=2), alone)
    assert (refusal.knob, refusal.value) == ("processes", 2)
    assert "only 1 CPUs are visible" in refusal.reason
    many = Probe(backend="cpu", available=True, facts={"cpus": 2})
    assert CpuBackend().refusals(Knobs(processes=2), many) == []


def test_a_processor_with_fp16_instructions_runs_it() -> None:
    assert refused(True, precision="amp-fp16") == {}


HERE = Probe(backend="cpu", available=True, facts={"cxx": "g++"})


@pytest.mark.parametrize(("mode", "alone"), [("default", False), ("max-autotune", True)])
def test_cases_are_compiled_beside_each_other_unless_kernels_are_timed(
    mode: str, alone: bool
) -> None:
    case = Knobs.model_validate({"compile": "inductor", "compile_mode": mode})
    assert CpuBackend().precompilation(case, HERE) == Precompilation(alone=alone)


def test_eager_cases_have_nothing_to_compile() -> None:
    assert CpuBackend().precompilation(Knobs(), HERE) is None
