"""Scaling the loss of fp16: the update is the unscaled one, and what is skipped is not counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.measure.alignment import Alignment
from bench.scenarios.schema import Knobs
from bench.worker.events import Events
from bench.worker.health import watch
from bench.workload import inspection
from bench.workload.inspection import WatchedGradients
from bench.workload.step import TrainStep
from tests.workload.build import Flat, batch, knobs, train_step

pytestmark = pytest.mark.torch

IMPLEMENTATIONS = ["for-loop", "foreach", "fused"]
OVERFLOWS = 1e38


def fp16(**changes: Any) -> Knobs:
    return knobs(precision="amp-fp16", optimizer="sgd", momentum=0.0, learning_rate=0.1, **changes)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def overflowing(step: TrainStep) -> None:
    """Make the gradients of every update infinite, as too large a scale does."""
    criterion = step.criterion

    class Overflowing(torch.nn.Module):
        def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> Any:
            return criterion(outputs, labels) * OVERFLOWS

    step.criterion = Overflowing()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_update_is_that_of_an_unscaled_loss(implementation: str) -> None:
    torch.manual_seed(0)
    scaled, plain = Flat(), Flat()
    plain.load_state_dict(scaled.state_dict())
    before = weights(plain)
    settings = {"optimizer_impl": implementation}
    train_step(scaled, [batch()], fp16(**settings)).advance(3)
    wanted = knobs(optimizer="sgd", momentum=0.0, learning_rate=0.1, **settings)
    train_step(plain, [batch()], wanted).advance(3)
    torch.testing.assert_close(weights(scaled), weights(plain), rtol=0, atol=2e-3)
    assert not torch.allclose(weights(scaled), before)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_update_that_is_made_counts(implementation: str) -> None:
    step = train_step(Flat(), [batch()], fp16(optimizer_impl=implementation))
    step.advance(4)
    assert (step.counter.updates, step.skipped_updates()) == (4, 0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_skipped_update_leaves_the_weights_and_is_not_counted(implementation: str) -> None:
    """A fused optimizer is called for it all the same."""
    module = Flat()
    step = train_step(module, [batch()], fp16(optimizer_impl=implementation))
    step.advance(1)
    after_one = weights(module)
    overflowing(step)
    step.advance(2)
    assert torch.equal(weights(module), after_one)
    assert (step.counter.updates, step.skipped_updates()) == (1, 2)


def test_accumulated_micro_batches_share_one_scaled_update() -> None:
    step = train_step(Flat(), [batch()], fp16(gradient_accumulation=2))
    step.advance(6)
    assert (step.counter.updates, step.skipped_updates()) == (3, 0)


def test_other_precisions_have_nothing_to_skip() -> None:
    for precision in ("fp32", "amp-bf16", "bf16"):
        step = train_step(Flat(), [batch()], knobs(precision=precision))
        assert step.scaling is None
        assert step.skipped_updates() is None


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_watched_gradients_have_no_scale_in_them(implementation: str) -> None:
    step = train_step(Flat(), [batch()], fp16(optimizer_impl=implementation))
    with WatchedGradients(step, left=inspection.norm, given=inspection.norm) as watched:
        step.advance(1)
    assert inspection.norm_kept(watched.updates) == pytest.approx(1.0)
    (left, _), *_ = watched.updates
    assert 0 < float(left[0]) < 100


def test_a_gradient_that_is_clipped_after_it_was_unscaled_still_shows() -> None:
    step = train_step(Flat(), [batch()], fp16())
    with WatchedGradients(step, left=inspection.enlarged, given=inspection.norm) as watched:
        looked = step.before_update
        assert looked is not None

        def look_and_clip() -> None:
            looked()
            torch.nn.utils.clip_grad_norm_(step.module.parameters(), 1.0)

        step.before_update = look_and_clip
        step.advance(1)
    kept = inspection.norm_kept(watched.updates)
    assert kept is not None
    assert kept < 0.01


class TestHealth:
    ALONE = Alignment(batches_per_execution=1, gradient_accumulation=1, first_cut=0)

    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    def test_updates_that_are_skipped_at_first_are_made_again(self, implementation: str) -> None:
        """The first scale is often too large: halving it a few times is no sickness."""
        step = train_step(Flat(), [batch()], fp16(optimizer_impl=implementation))
        calls = overflowing_at_first(step, 3)
        found = watch(step, self.ALONE, 5, Events(0))
        assert calls[0] > 5 + 3
        assert found.updates == 5
        assert found.nonfinite_gradients == 0
        assert len(found.losses) == 6
        losses = [loss for loss in found.losses if loss is not None]
        assert losses == sorted(losses, reverse=True)
        assert len(set(losses)) == 6

    def test_one_that_always_overflows_is_sick(self) -> None:
        step = train_step(Flat(), [batch()], fp16())
        overflowing_at_first(step, 1000)
        found = watch(step, self.ALONE, 5, Events(0))
        assert found.updates == 0
        assert found.nonfinite_gradients
        assert len(found.losses) == 6


def overflowing_at_first(step: TrainStep, first: int) -> list[int]:
    """Let the first backward passes overflow; returns the count of all, which grows."""
    calls = [0]
    criterion = step.criterion

    class FirstOverflow(torch.nn.Module):
        def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> Any:
            calls[0] += 1
            loss = criterion(outputs, labels)
            return loss * OVERFLOWS if calls[0] <= first else loss

    step.criterion = FirstOverflow()
    return calls
