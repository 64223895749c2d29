"""The step: what it computes, what it counts, and that accumulation equals the big batch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from bench.backends.cpu import CpuDevice
from bench.workload import optimizers
from bench.workload.engines import PlainEngine
from bench.workload.step import MovedParameters, TimedBatches
from tests.workload.build import Flat, Recorder, batch, infer_step, knobs, train_step

pytestmark = pytest.mark.torch


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
@pytest.mark.parametrize("every", [2, 4])
def test_accumulated_micro_batches_update_like_one_big_batch(rule: str, every: int) -> None:
    images, labels = batch(size=4 * every)
    parts = list(zip(images.split(4), labels.split(4), strict=True))
    torch.manual_seed(0)
    small, big = Flat(), Flat()
    big.load_state_dict(small.state_dict())
    start = weights(small)
    settings: dict[str, Any] = {"optimizer": rule, "learning_rate": 0.1}

    accumulating = train_step(small, parts, knobs(gradient_accumulation=every, **settings))
    accumulating.advance(every)
    train_step(big, [(images, labels)], knobs(batch_size=4 * every, **settings)).advance(1)

    assert accumulating.counter.updates == 1
    assert not torch.allclose(weights(big), start)
    torch.testing.assert_close(weights(small), weights(big))


def test_a_step_is_the_textbook_update() -> None:
    images, labels = batch()
    module = Flat()
    before = weights(module)
    loss = torch.nn.functional.cross_entropy(module(images), labels)
    gradient = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]
    )
    step = train_step(module, [(images, labels)], knobs(optimizer="sgd", learning_rate=0.5))
    step.advance(1)
    torch.testing.assert_close(weights(module), before - 0.5 * gradient)
    output = step.output()
    assert output is not None
    torch.testing.assert_close(output, loss)
    assert all(p.grad is None for p in module.parameters())


def test_training_on_one_batch_lowers_its_loss() -> None:
    step = train_step(Flat(), [batch()], knobs(learning_rate=0.01))
    step.advance(1)
    first = step.output()
    step.advance(50)
    last = step.output()
    assert first is not None
    assert last is not None
    assert float(last) < 0.5 * float(first)


def test_micro_batches_samples_and_updates_are_counted_apart() -> None:
    step = train_step(Flat(), [batch(4)], knobs(gradient_accumulation=3))
    step.advance(4)
    step.advance(4)
    assert (step.micro_batches, step.samples, step.counter.updates) == (8, 32, 2)
    assert step.batch_sizes == {4}


def test_a_batch_of_another_size_is_seen() -> None:
    step = infer_step(Flat(), [batch(4), batch(3)], knobs(task="infer"))
    step.advance(2)
    assert step.batch_sizes == {3, 4}
    assert step.samples == 7


def test_inference_builds_no_graph_and_changes_no_weight() -> None:
    module = Flat()
    before = weights(module)
    step = infer_step(module, [batch()], knobs(task="infer"))
    assert step.output() is None
    step.advance(3)
    output = step.output()
    assert output is not None
    assert output.shape == (4, 5)
    assert not output.requires_grad
    assert torch.equal(weights(module), before)


def test_every_output_of_inference_is_shown_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[torch.Tensor] = []
    monkeypatch.setattr(CpuDevice, "keep", lambda _self, output: kept.append(output) or output)
    infer_step(Flat(), [batch(seed=0), batch(seed=1)], knobs(task="infer")).advance(2)
    assert len(kept) == 2
    assert not torch.equal(*kept)


def test_channels_last_reorders_the_images_in_memory() -> None:
    images, labels = batch()
    for wanted, ordered in ((knobs(), False), (knobs(channels_last=True), True)):
        module = Recorder()
        train_step(module, [(images, labels)], wanted).advance(1)
        [seen] = module.seen
        assert seen.is_contiguous(memory_format=torch.channels_last) is ordered
        assert torch.equal(seen, images)


def test_pure_bf16_casts_the_images_to_the_type_of_the_weights() -> None:
    module = Recorder().to(torch.bfloat16)
    step = train_step(module, [batch()], knobs(precision="bf16"))
    step.advance(1)
    assert module.seen[0].dtype == torch.bfloat16
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert step.samples == 4


def test_autocast_computes_in_bf16_over_fp32_weights() -> None:
    module = Recorder()
    step = infer_step(module, [batch()], knobs(task="infer", precision="amp-bf16"))
    step.advance(1)
    output = step.output()
    assert output is not None
    assert output.dtype == torch.bfloat16
    assert module.seen[0].dtype == torch.float32


def test_after_a_fence_of_a_synchronous_device_next_to_nothing_remains() -> None:
    step = train_step(Flat(), [batch()], knobs())
    step.advance(2)
    step.fence()
    assert 0 <= step.residual() < 0.1


class Offloading(PlainEngine):
    """Keeps parameters where this device cannot read them."""

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(tensor, device="meta")


def test_where_parameters_are_kept_elsewhere_the_fence_is_proven_by_the_last_loss() -> None:
    step = train_step(Flat(), [batch()], knobs(), Offloading())
    with pytest.raises(RuntimeError, match="no micro-batch was issued"):
        step.residual()
    step.advance(2)
    first, second = step._witnesses()
    assert first is step.output()
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()
    assert 0 <= step.residual() < 0.1


def test_the_share_of_moved_parameters_counts_trainable_tensors_only() -> None:
    module = torch.nn.Sequential(Flat(), torch.nn.Linear(5, 5), torch.nn.Linear(5, 5))
    for parameter in module[0].parameters():
        parameter.requires_grad = False
    moved = MovedParameters(module)
    assert moved.share() == 0.0
    with torch.no_grad():
        module[0].head.weight.add_(1.0)
        module[1].bias[2] += 1e-3
    assert moved.share() == 0.25
    with torch.no_grad():
        for parameter in (module[1].weight, module[2].weight, module[2].bias):
            parameter.add_(1.0)
    assert moved.share() == 1.0


def test_parameters_move_under_the_step_and_not_under_a_rate_too_small_to_show() -> None:
    for rate, share in ((0.1, 1.0), (1e-30, 0.0)):
        module = Flat()
        moved = MovedParameters(module)
        train_step(module, [batch()], knobs(optimizer="sgd", learning_rate=rate)).advance(1)
        assert moved.share() == share


def test_what_is_frozen_later_or_left_out_of_the_optimizer_is_named() -> None:
    module = torch.nn.Sequential(Flat(), torch.nn.Linear(5, 5), torch.nn.Linear(5, 5))
    module[1].requires_grad_(False)
    moved = MovedParameters(module)
    optimizer = optimizers.build(knobs(), module.parameters())
    assert moved.untrained(optimizer) == []
    module[0].head.bias.requires_grad_(False)
    assert moved.untrained(optimizer) == ["0.head.bias"]
    optimizer = optimizers.build(knobs(), module[2].parameters())
    assert moved.untrained(optimizer) == ["0.head.bias", "0.head.weight"]


def test_a_module_without_trainable_parameters_has_moved_none() -> None:
    assert MovedParameters(torch.nn.Flatten()).share() == 0.0


def test_the_timer_adds_up_what_the_loader_takes() -> None:
    import time

    def slow() -> Any:
        while True:
            time.sleep(0.02)
            yield batch()

    timed = TimedBatches(slow())
    taken = list(itertools.islice(timed, 5))
    assert len(taken) == 5
    assert 0.1 <= timed.wait_s() < 0.5
