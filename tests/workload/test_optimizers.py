"""Optimizers: the rule and the implementation that really run, and how updates are counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.backends.base import Unsupported
from bench.workload import optimizers
from tests.workload.build import Flat, batch, knobs, train_step

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("rule", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("implementation", ["auto", "for-loop", "foreach", "fused"])
def test_the_rule_and_its_implementation_are_read_back_from_the_optimizer(
    rule: str, implementation: str
) -> None:
    wanted = knobs(optimizer=rule, optimizer_impl=implementation, learning_rate=0.25)
    built = optimizers.build(wanted, Flat().parameters())
    assert optimizers.describe_actual(built) == {
        "optimizer": rule,
        "optimizer_impl": implementation,
        "learning_rate": 0.25,
        "weight_decay": 0.0,
        "momentum": 0.9 if rule == "sgd" else None,
    }


@pytest.mark.parametrize("rule", ["adam", "adamw"])
def test_a_capturable_update_is_told_from_a_foreach_one(rule: str) -> None:
    """It is only built: torch refuses to run it on the host."""
    wanted = knobs(optimizer=rule, optimizer_impl="capturable")
    built = optimizers.build(wanted, Flat().parameters())
    assert optimizers.describe_actual(built)["optimizer_impl"] == "capturable"
    assert built.param_groups[0]["foreach"] is True


@pytest.mark.parametrize(
    ("implementation", "function"),
    [
        ("for-loop", "_single_tensor_adamw"),
        ("foreach", "_multi_tensor_adamw"),
        ("fused", "_fused_adamw"),
    ],
)
def test_the_implementation_asked_for_is_the_one_that_runs(
    implementation: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.optim import adam

    ran = []
    for name in ("_single_tensor_adam", "_multi_tensor_adam", "_fused_adam"):
        real = getattr(adam, name)

        def spy(*given: Any, name: str = name, real: Any = real, **named: Any) -> Any:
            ran.append(name)
            return real(*given, **named)

        monkeypatch.setattr(adam, name, spy)
    # AdamW is Adam with the decay decoupled: torch runs one function for both.
    wanted = knobs(optimizer="adamw", optimizer_impl=implementation)
    step = train_step(Flat(), [batch()], wanted)
    ran.clear()
    step.advance(1)
    assert ran == [function.removesuffix("w")]


def test_frozen_parameters_are_not_given_to_the_optimizer() -> None:
    module = Flat()
    module.head.bias.requires_grad = False
    built = optimizers.build(knobs(), module.parameters())
    assert [p.shape for p in built.param_groups[0]["params"]] == [(5, 48)]


def test_an_implementation_that_torch_refuses_is_unsupported_with_its_reason() -> None:
    strange = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64, device="meta"))
    with pytest.raises(Unsupported, match=r"optimizer_impl=fused: .*fused") as refused:
        optimizers.build(knobs(optimizer_impl="fused"), [strange])
    assert refused.value.refusal.value == "fused"


def test_updates_are_counted_whoever_asks_for_them() -> None:
    built = optimizers.build(knobs(), Flat().parameters())
    counter = optimizers.UpdateCounter(built)
    for _ in range(3):
        built.step()
    assert counter.updates == 3
