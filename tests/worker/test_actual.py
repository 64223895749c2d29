"""Asked against actual: what runs is read back, and a planted substitution does not pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import JsonValue

from bench.audit.checks import as_asked
from bench.audit.evidence import Evidence
from bench.backends.base import World
from bench.backends.cpu import CpuDevice
from bench.results.record import CheckResult
from bench.scenarios.schema import Knobs
from bench.worker import actual, building
from bench.worker.building import Built
from tests.worker.a_job import a_case, a_job

pytestmark = pytest.mark.torch

SETTINGS: list[dict[str, Any]] = [
    {},
    {"task": "infer"},
    {"precision": "amp-bf16"},
    {"precision": "bf16"},
    {"channels_last": True},
    {"optimizer": "sgd", "momentum": 0.5, "learning_rate": 0.1, "weight_decay": 0.01},
    {"optimizer": "adam", "optimizer_impl": "foreach"},
    {"optimizer_impl": "fused"},
    {"gradient_accumulation": 3},
    {"activation_checkpointing": True},
    {"batch_size": 3},
]


def run(folder: Path, settings: dict[str, Any]) -> tuple[Knobs, CpuDevice, Built]:
    """Build a case and make six micro-batches, which is whole updates for 1, 2 and 3."""
    case = a_case(settings)
    device = CpuDevice(1)
    built = building.build(a_job(folder, case), World(), device)
    built.step.advance(6)
    device.close()
    return case.knobs, device, built


def found(knobs: Knobs, device: CpuDevice, built: Built) -> dict[str, JsonValue]:
    return actual.actual(
        knobs,
        device=device,
        engine=built.engine,
        model=built.model,
        step=built.step,
        proven=built.proven,
    )


def judged(knobs: Knobs, ran: dict[str, JsonValue], built: Built) -> tuple[CheckResult, str]:
    """Return what the audit says of it."""
    evidence = Evidence(
        knobs=knobs,
        window_s=(1.0,),
        residual_s=(0.0,),
        voided_windows=0,
        windows_exhausted=False,
        steady=True,
        steady_reason="",
        micro_batches=1,
        samples=8,
        batch_sizes=frozenset({8}),
        updates=1,
        executions=None,
        expected_executions=None,
        fallbacks={},
        moved_share=1.0,
        loss_first=1.0,
        loss_last=1.0,
        collectives=None,
        asked=actual.asked(knobs, built.engine, built.model, built.image_size),
        actual=ran,
    )
    return as_asked(evidence)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_what_was_asked_for_is_what_is_read_back(tmp_path: Path, settings: dict[str, Any]) -> None:
    knobs, device, built = run(tmp_path, settings)
    ran = found(knobs, device, built)
    assert judged(knobs, ran, built)[0] is CheckResult.PASS
    for name, value in settings.items():
        assert ran[name] == value


@pytest.mark.parametrize(
    ("asked_for", "substituted"),
    [
        ({"precision": "amp-bf16"}, {"precision": "fp32"}),
        ({"precision": "fp32"}, {"precision": "amp-bf16"}),
        ({"precision": "bf16"}, {"precision": "fp32"}),
        ({"channels_last": True}, {"channels_last": False}),
        ({"optimizer": "adamw"}, {"optimizer": "sgd"}),
        ({"optimizer_impl": "fused"}, {"optimizer_impl": "for-loop"}),
        ({"learning_rate": 0.1}, {"learning_rate": 0.2}),
        ({"weight_decay": 0.1}, {"weight_decay": 0.0}),
        ({"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "sgd", "momentum": 0.0}),
        ({"gradient_accumulation": 3}, {"gradient_accumulation": 1}),
        ({"activation_checkpointing": True}, {"activation_checkpointing": False}),
        ({"batch_size": 8}, {"batch_size": 4}),
        ({"task": "infer"}, {"task": "train"}),
        ({"threads": 2}, {"threads": 1}),
    ],
    ids=str,
)
def test_a_silent_substitution_of_any_setting_is_found(
    tmp_path: Path, asked_for: dict[str, Any], substituted: dict[str, Any]
) -> None:
    """What runs is built from other knobs than those the case is judged by."""
    _, _, built = run(tmp_path, substituted)
    wanted = a_case(asked_for).knobs
    device = Substituting(Knobs.model_validate(a_case(substituted).knobs.model_dump()))
    result, evidence = judged(wanted, found(wanted, device, built), built)
    device.close()
    assert result is CheckResult.FAIL
    (name, value), *_ = (item for item in asked_for.items() if substituted[item[0]] != item[1])
    assert f"{name}: asked {value}, ran {substituted[name]}" in evidence


class Substituting(CpuDevice):
    """Autocasts as other knobs say than those it is given."""

    def __init__(self, really: Knobs) -> None:
        super().__init__(1)
        self._really = really

    def autocast(self, knobs: Knobs) -> Any:
        return super().autocast(self._really)


def test_a_compilation_that_never_happened_is_not_taken_for_one(tmp_path: Path) -> None:
    _, device, built = run(tmp_path, {})
    wanted = a_case({"compile": "inductor"}).knobs
    result, evidence = judged(wanted, found(wanted, device, built), built)
    assert result is CheckResult.FAIL
    assert "compile: asked inductor, ran none" in evidence


MODES = ["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_of_the_compiler_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Wrapped only: compiling for real would tell no more about the mode."""
    _, device, built = run(tmp_path, {})
    monkeypatch.setitem(torch._dynamo.utils.counters["frames"], "ok", 1)
    eager = built.step.module
    wanted = a_case({"compile": "inductor", "compile_mode": mode}).knobs
    built.step.module = device.compile(eager, wanted)
    ran = found(wanted, device, built)
    assert (ran["compile"], ran["compile_mode"]) == ("inductor", mode)
    assert judged(wanted, ran, built)[0] is CheckResult.PASS

    other = MODES[MODES.index(mode) - 1]
    substitute = a_case({"compile": "inductor", "compile_mode": other}).knobs
    built.step.module = device.compile(eager, substitute)
    result, evidence = judged(wanted, found(wanted, device, built), built)
    assert result is CheckResult.FAIL
    assert evidence == f"compile_mode: asked {mode}, ran {other}"


def test_a_wrapper_that_dynamo_gave_up_on_does_not_count_as_compiled(tmp_path: Path) -> None:
    _, device, built = run(tmp_path, {})
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    # Wrapped and never called through: no frame was compiled.
    built.step.module = torch.compile(built.step.module)
    wanted = a_case({"compile": "inductor"}).knobs
    assert found(wanted, device, built)["compile"] == "none"


def test_a_compilation_for_another_backend_is_not_taken_for_the_one_asked_for(
    tmp_path: Path,
) -> None:
    """`eager` wraps the module and compiles frames like any other, and generates no code."""
    _, device, built = run(tmp_path, {})
    torch._dynamo.reset()
    built.step.module = torch.compile(built.step.module, backend="eager")
    built.step.advance(1)
    wanted = a_case({"compile": "inductor"}).knobs
    result, evidence = judged(wanted, found(wanted, device, built), built)
    assert result is CheckResult.FAIL
    assert "compile: asked inductor, ran eager" in evidence


def test_a_proof_by_computing_outranks_the_types_that_torch_shows(tmp_path: Path) -> None:
    knobs, device, built = run(tmp_path, {})
    proven = dataclasses.replace(built, proven={"precision": "bf16-env", "float32_is": "bf16"})
    ran = found(knobs, device, proven)
    assert ran["precision"] == "bf16-env"
    assert ran["float32_is"] == "bf16"


def test_images_of_another_size_than_the_model_was_built_for_are_found(tmp_path: Path) -> None:
    knobs, device, built = run(tmp_path, {})
    built.step.image_sizes = {built.image_size // 2}
    result, evidence = judged(knobs, found(knobs, device, built), built)
    assert result is CheckResult.FAIL
    assert f"image_size: asked {built.image_size}, ran {built.image_size // 2}" in evidence


def test_a_model_that_does_not_tell_whether_it_checkpoints_is_not_asked(tmp_path: Path) -> None:
    knobs, device, built = run(tmp_path, {})
    silent = dataclasses.replace(built, model=torch.nn.Linear(2, 2))
    assert "activation_checkpointing" not in actual.asked(knobs, built.engine, silent.model, 32)
    assert found(knobs, device, silent)["activation_checkpointing"] is None
