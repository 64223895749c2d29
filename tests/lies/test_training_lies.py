"""Lies about training: steps that update nothing, or update something else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch.nn import Parameter

from bench.backends.cpu import CpuDevice
from bench.results.record import CheckResult
from bench.run import ending
from bench.scenarios.schema import Knobs
from bench.workload import inspection, models, optimizers
from bench.workload.engines import MakeOptimizer, PlainEngine, Prepared
from bench.workload.scaling import LossScaling
from tests.lies.real_runs import caught, first_passing, launched, result, words

pytestmark = pytest.mark.torch


def test_the_control_is_a_launch_that_nothing_catches(tmp_path: Path) -> None:
    launch = first_passing("fence_waits", lambda: launched(tmp_path))
    assert caught(launch) == set()
    assert words(launch, "parameters_moved") == "100% of the trainable tensors moved"


def test_an_optimizer_that_is_never_called_is_caught_by_updates_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuDevice, "step_optimizer", lambda _self, _optimizer: None)
    launch = launched(tmp_path)
    assert {"updates_counted", "parameters_moved"} <= caught(launch)
    assert words(launch, "updates_counted").startswith("0 updates, expected ")


def test_steps_that_a_grad_scaler_skips_are_caught_by_updates_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second gradient overflows; the scaler leaves the update out and says nothing."""
    scaler = torch.amp.GradScaler("cpu", growth_interval=10**6)
    scaler.scale(torch.ones(1))
    steps = 0

    def scaled(_device: CpuDevice, optimizer: torch.optim.Optimizer) -> None:
        nonlocal steps
        steps += 1
        if steps % 2 == 0:
            optimizer.param_groups[0]["params"][0].grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update(1.0)

    monkeypatch.setattr(CpuDevice, "step_optimizer", scaled)
    launch = launched(tmp_path)
    assert "updates_counted" in caught(launch)
    counted, expected = words(launch, "updates_counted").split(" updates, expected ")
    assert float(counted) == pytest.approx(float(expected) / 2, abs=1)


def test_updates_that_the_loss_scaler_of_the_step_skips_are_caught_by_updates_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second loss overflows: the harness's own scaler leaves the update out, as it should."""
    step, steps = LossScaling.step, 0

    def overflowing(scaling: LossScaling, optimizer: torch.optim.Optimizer) -> None:
        nonlocal steps
        steps += 1
        if steps % 2 == 0:
            optimizer.param_groups[0]["params"][0].grad.fill_(float("inf"))
        step(scaling, optimizer)

    monkeypatch.setattr(LossScaling, "step", overflowing)
    launch = launched(tmp_path, precision="amp-fp16")
    assert "updates_counted" in caught(launch)
    told = re.fullmatch(
        r"(\d+) updates, expected (\d+); (\d+) skipped by the loss scaler",
        words(launch, "updates_counted"),
    )
    assert told is not None
    made, expected, skipped = map(int, told.groups())
    assert made + skipped == expected
    assert skipped >= expected // 2


def test_parameters_frozen_behind_our_back_are_caught_by_parameters_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the head is trained: no backward pass through the rest, and the step is fast."""

    def frozen(_engine: PlainEngine, module: torch.nn.Module, make: MakeOptimizer) -> Prepared:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_("head" in name)
        return module, make(module.parameters())

    monkeypatch.setattr(PlainEngine, "prepare", frozen)
    assert "parameters_moved" in caught(launched(tmp_path))


STEM = ("cls_token", "pos_embed", "patch_embed", "blocks.0.")


def test_half_of_a_model_frozen_behind_our_back_is_caught_by_parameters_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backward ends before the first block, and most tensors move all the same."""

    def frozen(_engine: PlainEngine, module: torch.nn.Module, make: MakeOptimizer) -> Prepared:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(not name.startswith(STEM))
        return module, make(module.parameters())

    monkeypatch.setattr(PlainEngine, "prepare", frozen)
    launch = launched(tmp_path)
    assert "parameters_moved" in caught(launch)
    text = words(launch, "parameters_moved")
    assert int(text.split("%")[0]) >= 50, "or the share alone would have told"
    assert "frozen after the build, or not in the optimizer: blocks.0." in text


def test_an_optimizer_that_was_given_the_head_alone_is_caught_by_parameters_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = optimizers.build

    def of_the_head(knobs: Knobs, parameters: Iterable[Parameter]) -> torch.optim.Optimizer:
        return build(knobs, list(parameters)[-2:])

    monkeypatch.setattr(optimizers, "build", of_the_head)
    launch = launched(tmp_path)
    assert "parameters_moved" in caught(launch)
    assert "not in the optimizer: blocks.0." in words(launch, "parameters_moved")


def test_a_model_that_was_built_with_frozen_parts_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = models.build

    def partly_frozen(*arguments: object) -> models.Model:
        model = build(*arguments)  # type: ignore[arg-type]
        for name, parameter in model.module.named_parameters():
            parameter.requires_grad_(not name.startswith(STEM))
        return model

    monkeypatch.setattr(models, "build", partly_frozen)
    launch = launched(tmp_path)
    assert caught(launch) == set()
    assert result(launch, "parameters_moved") is CheckResult.PASS


def test_a_loss_that_is_no_number_is_caught_by_loss_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = models.build

    def broken(*arguments: object) -> models.Model:
        model = build(*arguments)  # type: ignore[arg-type]
        model.module.register_forward_hook(lambda _module, _inputs, output: output * float("nan"))
        return model

    monkeypatch.setattr(models, "build", broken)
    launch = launched(tmp_path)
    assert "loss_finite" in caught(launch)
    end = ending.not_finite(launch)
    assert end is not None
    assert end.outcome == "nan"


BY_HEART = {"source": "cached", "pool": 1}
"""One batch: after the windows it is learned, and its gradients are far below a norm of 1."""


def clipped(_device: CpuDevice, optimizer: torch.optim.Optimizer) -> None:
    """Clip to a norm of 1, as a library does unless it is told not to."""
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()


def test_gradients_clipped_behind_our_back_are_caught_by_gradients_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuDevice, "step_optimizer", clipped)
    assert caught(launched(tmp_path, data=BY_HEART)) == {"gradients_untouched"}


def test_the_bound_would_not_show_on_gradients_that_nobody_enlarged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CpuDevice, "step_optimizer", clipped)
    monkeypatch.setattr(inspection, "enlarged", inspection.norm)
    assert caught(launched(tmp_path, data=BY_HEART)) == set()
