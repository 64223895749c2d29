"""Lies about training: steps that update nothing, or update something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.backends.cpu import CpuDevice
from bench.run import ending
from bench.workload import models
from bench.workload.engines import PlainEngine
from tests.lies.real_runs import caught, launched, words

pytestmark = pytest.mark.torch


def test_the_control_is_a_launch_that_nothing_catches(tmp_path: Path) -> None:
    launch = launched(tmp_path)
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


def test_parameters_frozen_behind_our_back_are_caught_by_parameters_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the head is trained: no backward pass through the rest, and the step is fast."""

    def frozen(_engine: PlainEngine, module: torch.nn.Module) -> torch.nn.Module:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_("head" in name)
        return module

    monkeypatch.setattr(PlainEngine, "prepare", frozen)
    assert "parameters_moved" in caught(launched(tmp_path))


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


def test_gradients_clipped_behind_our_back_are_caught_by_gradients_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a library does that clips to a norm of 1 unless told not to."""

    def clipped(_device: CpuDevice, optimizer: torch.optim.Optimizer) -> None:
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.01)
        optimizer.step()

    monkeypatch.setattr(CpuDevice, "step_optimizer", clipped)
    assert caught(launched(tmp_path)) == {"gradients_untouched"}
