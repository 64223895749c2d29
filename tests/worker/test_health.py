"""The health pass of one rank: what freezes, breaks or stands still shows; what trains passes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.backends.base import World
from bench.backends.cpu import CpuDevice
from bench.measure.alignment import Alignment
from bench.results.health import HealthRun, judge
from bench.results.record import Health, Phase
from bench.worker import health
from bench.worker.events import Events
from bench.worker.health import WatchedGradients, WatchedLoss, watch
from bench.workload.engines import PlainEngine
from tests.worker.a_job import a_case, a_job
from tests.workload.build import Flat, batch, knobs, train_step

pytestmark = pytest.mark.torch

SICK = {"image_size": 4, "classes": 10, "model_kwargs": {}, "optimizer": "sgd", "momentum": 0.0}


def passed(folder: Path, *, seed: int = 0, steps: int = 10, **settings: Any) -> HealthRun:
    """Run the health pass of the small ViT in this process."""
    case = a_case({"data": {"source": "device", "pool": 1}, **settings}, {"health_steps": steps})
    job = a_job(folder, case, seed=seed).model_copy(update={"purpose": "health"})
    found = health.run(job, World(), Events(0))
    assert found is not None
    return found


def judged(folder: Path, precision: str, learning_rate: float) -> Health:
    """Return the health of AdamW in a precision, against fp32 at the same learning rate."""
    own, reference = (
        passed(folder, precision=each, learning_rate=learning_rate) for each in (precision, "fp32")
    )
    return judge(own, reference, 10)


class TestPrecision:
    def test_pure_bf16_weights_freeze_at_a_small_learning_rate(self, tmp_path: Path) -> None:
        """An update of 1e-5 is below half of the last digit of nearly every weight."""
        found = judged(tmp_path, "bf16", 1e-5)
        assert found.learns is False
        assert found.learned_share is not None
        assert found.learned_share < 0.4
        assert found.loss_gap is not None
        assert found.loss_gap > 0.03
        assert "of what fp32 learns" in (found.reason or "")
        assert found.nonfinite_gradients == 0

    @pytest.mark.parametrize("precision", ["fp32", "amp-bf16"])
    def test_fp32_weights_learn_at_the_same_rate(self, tmp_path: Path, precision: str) -> None:
        found = judged(tmp_path, precision, 1e-5)
        assert (found.learns, found.reason) == (True, None)
        assert found.learned_share == pytest.approx(1.0, abs=0.05)

    @pytest.mark.parametrize("precision", ["bf16", "amp-bf16"])
    def test_every_precision_learns_at_the_usual_rate(self, tmp_path: Path, precision: str) -> None:
        found = judged(tmp_path, precision, 1e-3)
        assert (found.learns, found.reason) == (True, None)
        assert found.learned_share == pytest.approx(1.0, abs=0.05)
        assert found.loss_gap == pytest.approx(0.0, abs=0.06)

    def test_at_a_rate_too_small_for_ten_updates_nothing_can_be_told(self, tmp_path: Path) -> None:
        found = judged(tmp_path, "bf16", 1e-6)
        assert (found.learns, found.learned_share) == (None, None)
        assert "raise measure.health_steps" in (found.reason or "")

    def test_the_freeze_is_the_weights_and_not_the_arithmetic(self, tmp_path: Path) -> None:
        """In the frozen case most weights are bit for bit what they were."""
        case = a_case({"precision": "bf16", "learning_rate": 1e-5, "data": {"source": "device"}})
        job = a_job(tmp_path, case).model_copy(update={"purpose": "health"})
        built = health.building.build(job, World(), CpuDevice(1))
        before = [p.detach().clone() for p in built.model.parameters()]
        built.step.advance(10)
        pairs = list(zip(before, built.model.parameters(), strict=True))
        moved = sum(int((old != new).sum()) for old, new in pairs)
        assert moved / sum(old.numel() for old in before) < 0.4


class TestFaults:
    def test_a_model_that_gives_nan_later_is_found_with_its_first_update(
        self, tmp_path: Path
    ) -> None:
        kwargs = {"good_calls": 4}
        broken = passed(
            tmp_path, **{**SICK, "model_kwargs": kwargs}, model="tests.worker.sick_models:nan_after"
        )
        assert [loss is None for loss in broken.losses] == [False] * 4 + [True] * 7
        # Updates 5 to 10 are given NaN in all of 48 x 10 weights and 10 biases.
        assert broken.nonfinite_gradients == 6 * 490
        found = judge(broken, broken, 10)
        assert found.learns is False
        assert (found.reason or "").startswith(
            "7 of 11 losses are not finite, the first after 4 updates"
        )

    def test_a_huge_learning_rate_is_no_training(self, tmp_path: Path) -> None:
        wild = passed(
            tmp_path, **SICK, model="tests.worker.sick_models:healthy", learning_rate=1e38
        )
        assert None in wild.losses
        assert judge(wild, wild, 10).learns is False

    def test_the_same_model_at_a_usual_rate_trains(self, tmp_path: Path) -> None:
        calm = passed(tmp_path, **SICK, model="tests.worker.sick_models:healthy", learning_rate=0.1)
        found = judge(calm, calm, 10)
        assert (found.learns, found.reason) == (True, None)

    def test_an_optimizer_that_is_never_called_learns_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reference = passed(tmp_path)
        monkeypatch.setattr(CpuDevice, "step_optimizer", lambda _self, _optimizer: None)
        idle = passed(tmp_path, precision="amp-bf16")
        assert (idle.updates, idle.gradient_norm, idle.nonfinite_gradients) == (0, None, None)
        found = judge(idle, reference, 10)
        assert (found.learned_share, found.learns) == (pytest.approx(0.0, abs=1e-3), False)
        assert found.reason == "the optimizer made 0 of 10 updates"

    def test_parameters_that_are_frozen_after_the_optimizer_took_them_learn_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reference = passed(tmp_path)
        original = CpuDevice.compile

        def freezing(self: CpuDevice, module: torch.nn.Module, wanted: Any) -> torch.nn.Module:
            # All but the last bias, so that the backward pass has an end.
            for parameter in list(module.parameters())[:-1]:
                parameter.requires_grad = False
            return original(self, module, wanted)

        monkeypatch.setattr(CpuDevice, "compile", freezing)
        found = judge(passed(tmp_path), reference, 10)
        assert found.learned_share is not None
        assert found.learned_share < 0.1
        assert found.learns is False

    def test_a_loss_that_no_weight_acts_on_has_a_gradient_of_0(self, tmp_path: Path) -> None:
        still = passed(tmp_path, **SICK, model="tests.worker.sick_models:blind")
        assert still.gradient_norm == 0.0
        found = judge(still, still, 10)
        assert found.learns is False
        assert found.reason == "the first gradient is 0 in every parameter"

    def test_inference_has_no_health_pass(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match="is for training"):
            passed(tmp_path, task="infer")


class TestWhatIsSeen:
    def test_a_pass_repeats_itself_and_follows_its_seed(self, tmp_path: Path) -> None:
        first, again, other = (passed(tmp_path, seed=seed, steps=2) for seed in (3, 3, 4))
        assert first == again
        assert first.losses != other.losses

    def test_accumulating_equal_batches_is_training_on_one(self, tmp_path: Path) -> None:
        plain, three = (passed(tmp_path, steps=4, gradient_accumulation=every) for every in (1, 3))
        assert len(three.losses) == 5
        assert three.losses == pytest.approx(plain.losses, abs=1e-4)
        assert three.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-4)

    def test_losses_and_gradient_are_those_of_a_loop_written_by_hand(self) -> None:
        images, labels = batch()
        wanted = knobs(optimizer="sgd", momentum=0.0, learning_rate=0.1)
        ours, by_hand = Flat(), Flat()
        by_hand.load_state_dict(ours.state_dict())
        found = watch(train_step(ours, [(images, labels)], wanted), Alignment(), 3, Events(0))
        optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
        losses, norms = [], []
        for _ in range(4):
            loss = torch.nn.functional.cross_entropy(by_hand(images), labels)
            loss.backward()
            losses.append(float(loss.detach()))
            norms.append(
                float(torch.nn.utils.get_total_norm([p.grad for p in by_hand.parameters()]))
            )
            optimizer.step()
            optimizer.zero_grad()
        assert found.losses == pytest.approx(losses)
        assert found.gradient_norm == pytest.approx(norms[0])
        assert (found.updates, found.nonfinite_gradients) == (3, 0)

    def test_steps_are_cut_where_the_device_loader_cuts(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = knobs(gradient_accumulation=2, optimizer="sgd")
        model, twin = Flat(), Flat()
        twin.load_state_dict(model.state_dict())
        plain = watch(
            train_step(model, [batch()], wanted), Alignment(gradient_accumulation=2), 4, Events(0)
        )
        step = train_step(twin, [batch()], wanted)
        edges: list[int] = []
        monkeypatch.setattr(step, "fence", lambda: edges.append(step.micro_batches))
        graphs = Alignment(batches_per_execution=3, gradient_accumulation=2, first_cut=2)
        found = watch(step, graphs, 4, Events(0))
        # Four updates and the loss after them take 9 micro-batches; the fourth graph holds 2 more.
        assert edges == [2, 5, 8, 11]
        assert found == plain

    def test_the_gradients_are_summed_over_all_parameters(self) -> None:
        weights, bias = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
        optimizer = torch.optim.SGD([{"params": [weights]}, {"params": [bias]}], lr=0.0)
        seen = WatchedGradients(PlainEngine())
        optimizer.register_step_pre_hook(seen.look)
        weights.grad, bias.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
        optimizer.step()
        weights.grad = None
        bias.grad = torch.tensor([math.inf, math.nan, 1.0])
        optimizer.step()
        assert float(seen.squares[0]) == 25.0
        assert [int(count) for count in seen.nonfinite] == [0, 2]

    def test_the_loss_is_kept_in_float32_once_per_update(self) -> None:
        watched = WatchedLoss(torch.nn.CrossEntropyLoss(), every=2)
        logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
        labels = torch.tensor([0, 1, 2, 3])
        returned = [watched(logits, labels) for _ in range(3)]
        assert returned[0].dtype == torch.bfloat16
        assert [kept.dtype for kept in watched.kept] == [torch.float32] * 2
        expected = torch.nn.functional.cross_entropy(logits.float(), labels)
        assert torch.equal(watched.kept[0], expected)
        assert float(watched.kept[0]) != float(returned[0])

    def test_the_parent_hears_how_far_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        events = Events(0)
        told: list[tuple[int | None, int | None]] = []
        monkeypatch.setattr(
            events, "tell", lambda done=None, total=None: told.append((done, total))
        )
        watch(train_step(Flat(), [batch()], knobs()), Alignment(), 2, events)
        assert events.phase is Phase.HEALTH
        assert told == [(None, None), (0, 2), (1, 2), (2, 2), (2, 2)]
