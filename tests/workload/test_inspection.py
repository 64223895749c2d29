"""What the lookers see of batches and gradients, with faults planted and absent."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from bench.backends.base import Device
from bench.backends.products import dispatched
from bench.workload import inspection
from bench.workload.data import Batch
from bench.workload.engines import Engine, PlainEngine
from bench.workload.inspection import OneSpeaks, WatchedBatches, WatchedGradients, given_norm
from bench.workload.step import TrainStep
from tests.workload.build import Flat, batch, knobs, train_step

pytestmark = pytest.mark.torch


class TestBatches:
    def test_every_batch_is_handed_on_untouched_and_counted(self) -> None:
        batches = [batch(seed=seed) for seed in range(3)]
        watched = WatchedBatches(itertools.cycle(batches))
        drawn = [next(watched) for _ in range(7)]
        assert all(images is batches[i % 3][0] for i, (images, _) in enumerate(drawn))
        assert (watched.seen, watched.distinct) == (7, 3)

    def test_the_same_content_in_another_object_is_no_other_batch(self) -> None:
        images, labels = batch()
        watched = WatchedBatches(iter([(images, labels), (images.clone(), labels)]))
        for _ in range(2):
            next(watched)
        assert watched.distinct == 1

    def test_one_pixel_makes_another_batch(self) -> None:
        images, labels = batch()
        other = images.clone()
        other[0, 0, 0, 0] += 1e-6
        watched = WatchedBatches(iter([(images, labels), (other, labels)]))
        for _ in range(2):
            next(watched)
        assert watched.distinct == 2

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
    def test_batches_of_any_type_and_memory_order_can_be_told_apart(
        self, dtype: torch.dtype
    ) -> None:
        images = (torch.arange(96).reshape(2, 3, 4, 4) % 7).to(dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(2, dtype=torch.int64)
        watched = WatchedBatches(iter([(images, labels), (images + 1, labels)]))
        for _ in range(2):
            next(watched)
        assert watched.distinct == 2
        assert watched.deviation == pytest.approx(2.0, abs=0.05)

    def test_the_least_deviation_is_kept_so_that_one_blank_batch_shows(self) -> None:
        images, labels = batch()
        watched = WatchedBatches(iter([(images, labels), (torch.full_like(images, 0.3), labels)]))
        next(watched)
        assert watched.deviation == pytest.approx(1.0, abs=0.2)
        next(watched)
        assert watched.deviation == pytest.approx(0.0, abs=1e-7)

    def test_what_a_loader_computes_is_not_taken_for_the_models_work(self) -> None:
        def loader() -> Any:
            while True:
                yield torch.ones(4, 4) @ torch.ones(4, 4), torch.zeros(4)

        watched = WatchedBatches(loader())
        assert dispatched(lambda: next(watched)) == {}


def watched(step: TrainStep) -> WatchedGradients:
    return WatchedGradients(step, left=inspection.enlarged, given=inspection.norm)


def watched_updates(step: TrainStep, micro_batches: int = 1) -> list[tuple[list[Any], list[Any]]]:
    with watched(step) as found:
        step.advance(micro_batches)
    return found.updates


def plain_step(**changes: Any) -> TrainStep:
    torch.manual_seed(0)
    return train_step(Flat(), [batch(seed=s) for s in range(3)], knobs(**changes))


class TestGradients:
    def test_an_honest_step_keeps_the_norm_whole(self) -> None:
        assert inspection.norm_kept(watched_updates(plain_step(), 3)) == 1.0

    def test_weights_that_the_look_itself_blew_up_do_not_spoil_it(self) -> None:
        step = plain_step(optimizer="sgd", learning_rate=1e36)
        updates = watched_updates(step, 5)
        assert len(updates) == 5
        assert not all(torch.isfinite(norm) for norm in updates[-1][0])
        assert inspection.norm_kept(updates) == 1.0

    def test_accumulated_gradients_count_as_the_last_micro_batch_left_them(self) -> None:
        updates = watched_updates(plain_step(gradient_accumulation=3), 6)
        assert len(updates) == 2
        assert inspection.norm_kept(updates) == 1.0

    def test_an_accumulation_that_began_before_the_look_counts_whole(self) -> None:
        step = plain_step(gradient_accumulation=2)
        step.advance(1)
        assert inspection.norm_kept(watched_updates(step, 1)) == 1.0

    def test_clipping_by_norm_is_seen_with_its_ratio(self) -> None:
        step = plain_step()
        parameters = list(step.module.parameters())
        norms = []

        def clip(*_: Any) -> None:
            norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, 0.01)))

        # Hooks run in their order, so this one stands for a library that wraps the update.
        step.optimizer.register_step_pre_hook(clip)
        kept = inspection.norm_kept(watched_updates(step))
        assert kept == pytest.approx(0.01 / norms[0], rel=1e-3)

    def test_clipping_by_value_behind_autograds_back_is_seen(self) -> None:
        step = plain_step()

        def clip(*_: Any) -> None:
            for parameter in step.module.parameters():
                assert parameter.grad is not None
                parameter.grad.data.clamp_(-1e-3, 1e-3)

        step.optimizer.register_step_pre_hook(clip)
        kept = inspection.norm_kept(watched_updates(step))
        assert kept is not None
        assert kept < 0.01

    def test_a_gradient_that_was_taken_away_is_missing_from_the_norm(self) -> None:
        step = plain_step()
        head = next(step.module.parameters())
        step.optimizer.register_step_pre_hook(lambda *_: setattr(head, "grad", None))
        kept = inspection.norm_kept(watched_updates(step))
        assert kept is not None
        assert kept < 0.9

    @pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
    def test_gradients_that_are_zero_or_no_numbers_have_no_ratio(self, value: float) -> None:
        step = plain_step()
        for parameter in step.module.parameters():
            parameter.register_hook(lambda gradient: torch.full_like(gradient, value))
        assert inspection.norm_kept(watched_updates(step)) is None

    def test_without_an_update_there_is_nothing_to_compare(self) -> None:
        updates = watched_updates(plain_step(gradient_accumulation=2), 1)
        assert updates == []
        assert inspection.norm_kept(updates) is None

    def test_the_hooks_are_gone_afterwards(self) -> None:
        step = plain_step()
        with watched(step) as found:
            step.advance(1)
        step.advance(5)
        assert len(found.updates) == 1
        assert step.before_update is None

    def test_a_bound_far_above_the_gradients_of_a_model_that_has_learned_shows(self) -> None:
        """As after the windows: the loss is nearly zero, and clipping to 1 does nothing to it."""
        step = plain_step(optimizer="sgd", learning_rate=1e-9)
        parameters = list(step.module.parameters())
        for parameter in parameters:
            parameter.register_hook(lambda gradient: gradient * 1e-6)
        step.optimizer.register_step_pre_hook(
            lambda *_: torch.nn.utils.clip_grad_norm_(parameters, 1.0) and None
        )
        kept = inspection.norm_kept(watched_updates(step))
        assert kept == pytest.approx(1.0 / (1e4 * 2**0.5), rel=1e-3)


class Skipping(PlainEngine):
    """Finds every update unfit, as a loss scaler may."""

    def update(self, device: Device, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)


class Empty(PlainEngine):
    """Leaves this rank no part of any weight."""

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.flatten()[:0]


class NotANumber(torch.nn.Module):
    def forward(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return outputs.sum() * math.nan


class TestGivenNorm:
    def given(self, engine: Engine | None = None, *, speaks: bool = True) -> float | None:
        step = train_step(Flat(), [batch()], knobs(), engine)
        criterion = OneSpeaks(step.criterion, speaks)
        found = given_norm(step, criterion, lambda: step.advance(2))
        assert step.criterion is not criterion
        return found

    def test_a_loss_gives_a_gradient_and_none_gives_zero(self) -> None:
        assert (self.given() or 0.0) > 0.01
        assert self.given(speaks=False) == 0.0

    def test_of_updates_that_are_skipped_it_is_unknown(self) -> None:
        assert self.given(Skipping()) is None

    def test_a_rank_that_holds_nothing_can_be_given_nothing(self) -> None:
        assert self.given(Empty()) == math.inf

    def test_of_gradients_that_are_no_numbers_it_is_unknown(self) -> None:
        step = train_step(Flat(), [batch()], knobs())
        assert given_norm(step, NotANumber(), lambda: step.advance(1)) is None


def test_a_sparse_gradient_has_the_norm_of_its_values() -> None:
    sparse = torch.sparse_coo_tensor([[0, 2]], [3.0, 4.0], (5,), check_invariants=True)
    assert float(inspection.norm(sparse)) == 5.0


def test_batches_can_be_watched_through_a_whole_step() -> None:
    step = plain_step()
    batches: list[Batch] = [batch(seed=9)]
    step.batches = watched = WatchedBatches(itertools.cycle(batches))
    step.advance(4)
    assert (watched.seen, watched.distinct) == (4, 1)
