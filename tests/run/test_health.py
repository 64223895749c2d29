"""The health pass from the parent's side: what is run how often, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.backends.base import Backend, Probe, Refusal
from bench.backends.cpu import CpuBackend
from bench.results.health import HealthRun
from bench.results.record import Health, Outcome, Phase
from bench.run import health as passes
from bench.run.ending import End
from bench.run.health import HealthPass, pass_knobs, reference_knobs, reference_of
from bench.run.launching import Order, environment_of
from bench.run.plan import Planned, plan
from bench.scenarios.identity import fields_of
from bench.scenarios.schema import Identity, Knobs
from tests.builders import a_case
from tests.run.examiner import FROZEN, KILLED, LEARNS, Examiner, planned


def examine(pass_: HealthPass, asked: Planned, timeout_s: float = 60.0) -> Health:
    order = Order(asked, 0, 7, "session-1", 0, timeout_s, "none")
    return pass_.examine(order, lambda _event: None, lambda: False)


class TestReference:
    def test_it_is_plain_fp32_of_the_same_work_on_one_process(self) -> None:
        knobs = Knobs.model_validate(
            {
                "precision": "bf16",
                "compile": "inductor",
                "optimizer_impl": "foreach",
                "gradient_accumulation": 3,
                "activation_checkpointing": True,
                "channels_last": True,
                "loader": {"batches_per_execution": 4, "prefetch": 2},
                "engine": "ddp",
                "processes": 2,
                "batch_size": 5,
                "threads": 1,
                "seed": 9,
                "learning_rate": 0.5,
                "data": {"source": "jpeg", "workers": 3},
            }
        )
        reference = reference_knobs(knobs)
        assert reference == Knobs.model_validate(
            {
                "gradient_accumulation": 3,
                "batch_size": 5,
                "threads": 1,
                "seed": 9,
                "learning_rate": 0.5,
                "data": {"source": "device", "pool": 1},
            }
        )

    def test_it_is_one_device_of_those_that_share_a_batch(self) -> None:
        pair = Knobs.model_validate({"engine": "spmd", "batch_size": 5, "classes": 10})
        plain = Knobs.model_validate({"batch_size": 5, "classes": 10})
        assert reference_knobs(pair) == reference_knobs(plain)

    def test_the_pass_itself_changes_where_batches_lie_and_nothing_else(self) -> None:
        knobs = Knobs.model_validate(
            {
                "precision": "bf16",
                "loader": {"batches_per_execution": 4, "prefetch": 2},
                "data": {"source": "jpeg", "workers": 3},
            }
        )
        assert pass_knobs(knobs) == Knobs.model_validate(
            {
                "precision": "bf16",
                "loader": {"batches_per_execution": 4},
                "data": {"source": "device", "pool": 1},
            }
        )

    def test_of_every_treatment_it_is_decided_whether_the_reference_has_it(self) -> None:
        """A knob that is new here belongs into one of the two lists, and into the code."""
        kept = {"batch_size", "gradient_accumulation", "neuron.lnc", "threads"}
        plain = {
            "accelerate.config": None,
            "activation_checkpointing": False,
            "channels_last": False,
            "compile": "none",
            "compile_mode": None,
            "data.pin_memory": False,
            "data.prefetch": None,
            "data.workers": 0,
            "engine": "plain",
            "fsdp.offload": None,
            "fsdp.reshard_after_forward": None,
            "loader.batches_per_execution": 1,
            "loader.device_prefetch": None,
            "loader.prefetch": None,
            "loader.transfer_threads": None,
            "neuron.auto_cast": None,
            "neuron.auto_cast_type": None,
            "neuron.functionalization": None,
            "neuron.mixed_precision_accumulation": None,
            "neuron.model_type": None,
            "neuron.optlevel": None,
            "neuron.stochastic_rounding": None,
            "neuron.target": None,
            "nodes": 1,
            "optimizer_impl": "auto",
            "precision": "fp32",
            "processes": 1,
            "spmd.devices": None,
            "zero.config": None,
            "zero.nvme_path": None,
            "zero.offload_optimizer": None,
            "zero.offload_param": None,
            "zero.stage": None,
        }
        found = fields_of(reference_knobs(Knobs()), Identity.TREATMENT)
        assert set(found) - kept == set(plain)
        assert {name: found[name] for name in plain} == plain

    @pytest.mark.parametrize(
        "knobs",
        [
            {"precision": "bf16"},
            {"compile": "inductor"},
            {"processes": 2},
            {"processes": 2, "nodes": 2},
            {"activation_checkpointing": True},
            {"data": {"source": "jpeg", "workers": 2}},
            {"optimizer_impl": "foreach"},
        ],
    )
    def test_settings_that_do_not_change_the_mathematics_share_it(
        self, knobs: dict[str, Any]
    ) -> None:
        assert reference_of(planned(knobs))[1] == reference_of(planned())[1]

    @pytest.mark.parametrize(
        ("knobs", "measure"),
        [
            ({"learning_rate": 1e-5}, {}),
            ({"optimizer": "sgd"}, {}),
            ({"batch_size": 9}, {}),
            ({"gradient_accumulation": 2}, {}),
            ({"seed": 1}, {}),
            ({"model": "vit_small_patch16_224"}, {}),
            ({}, {"health_steps": 2}),
        ],
    )
    def test_settings_that_change_it_do_not(
        self, knobs: dict[str, Any], measure: dict[str, Any]
    ) -> None:
        assert reference_of(planned(knobs, measure))[1] != reference_of(planned())[1]

    def test_how_the_case_is_timed_does_not_matter(self) -> None:
        other = planned(measure={"launches": 9, "budget_s": 1.0, "warmup_steps": 3})
        assert reference_of(other)[1] == reference_of(planned())[1]

    def test_other_software_has_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = reference_of(planned())[1]
        monkeypatch.setattr("bench.run.environment.versions", lambda: {"torch": "99"})
        assert reference_of(planned())[1] != before


class TestReferenceOfACaseThatAgreesWithTheEnvironment:
    """A variable that a knob stands for is refused where the knob says something else."""

    def reference(self, knobs: dict[str, Any]) -> Planned:
        core = Probe(
            backend="neuron",
            available=True,
            device_model="Trainium2 NC_v3d",
            device_count=4,
            flavour="xla",
            facts={"pjrt": "NEURON", "family": "trn2"},
        )
        (asked,) = plan([a_case(knobs={"classes": 10, **knobs})], [core], {})
        assert asked.refusals == []
        return reference_of(asked)[0]

    @pytest.mark.parametrize(
        ("knobs", "name", "value"),
        [
            ({"precision": "bf16-env"}, "XLA_USE_BF16", "1"),
            ({"precision": "bf16"}, "NEURON_RT_STOCHASTIC_ROUNDING_EN", "1"),
            ({"neuron": {"functionalization": True}}, "XLA_DISABLE_FUNCTIONALIZATION", "0"),
        ],
    )
    def test_its_own_environment_overwrites_what_belongs_to_the_case(
        self, monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any], name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        reference = self.reference(knobs)
        assert reference.refusals == []
        assert environment_of(reference)[name] != value

    def test_the_cores_stay_as_the_case_has_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "1")
        reference = self.reference({"neuron": {"lnc": 1}})
        assert reference.refusals == []
        assert environment_of(reference)["NEURON_LOGICAL_NC_CONFIG"] == "1"

    def test_what_it_does_not_overwrite_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refusals(_self: Backend, knobs: Knobs, _probe: Probe) -> list[Refusal]:
            if knobs.precision != "fp32":
                return []
            return [Refusal(knob="precision", value="fp32", reason="no unit for it")]

        monkeypatch.setattr(CpuBackend, "refusals", refusals)
        reference, _ = reference_of(planned({"precision": "bf16"}))
        assert [refusal.knob for refusal in reference.refusals] == ["precision"]


class TestRuns:
    def test_one_reference_serves_all_cases_of_equal_work(self, tmp_path: Path) -> None:
        runner = Examiner()
        pass_ = HealthPass(tmp_path, runner)
        for precision in ("amp-bf16", "bf16"):
            health = examine(pass_, planned({"precision": precision}))
            assert (health.learns, health.loss_gap) == (True, 0.0)
        assert runner.precisions == ["amp-bf16", "fp32", "bf16"]

    def test_a_case_that_is_its_reference_runs_once(self, tmp_path: Path) -> None:
        runner = Examiner()
        pass_ = HealthPass(tmp_path, runner)
        health = examine(pass_, planned())
        assert runner.precisions == ["fp32"]
        assert (health.loss_last, health.reference_loss_last) == (1.3, 1.3)
        assert (health.loss_gap, health.learned_share) == (0.0, 1.0)
        # Another source of data is the same pass: its batch lies on the device.
        examine(pass_, planned({"data": {"source": "random", "workers": 2}}))
        examine(pass_, planned({"precision": "bf16"}))
        assert runner.precisions == ["fp32", "bf16"]

    def test_both_start_from_one_seed_and_share_the_time_that_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = SimpleNamespace(now=0.0)
        monkeypatch.setattr(passes, "time", SimpleNamespace(monotonic=lambda: clock.now))

        def answer(order: Order) -> HealthRun:
            clock.now += 40.0
            return LEARNS

        runner = Examiner(answer)
        examine(HealthPass(tmp_path, runner), planned({"precision": "bf16"}), timeout_s=60.0)
        assert [order.timeout_s for order in runner.orders] == [60.0, 20.0]
        assert [order.seed for order in runner.orders] == [7, 7]

    def test_a_frozen_case_does_not_learn(self, tmp_path: Path) -> None:
        runner = Examiner(lambda o: FROZEN if o.planned.case.knobs.precision == "bf16" else LEARNS)
        health = examine(HealthPass(tmp_path, runner), planned({"precision": "bf16"}))
        assert (health.learned_share, health.learns) == (0.0, False)

    def test_a_pass_that_fails_is_unknown_with_its_reason_and_needs_no_reference(
        self, tmp_path: Path
    ) -> None:
        runner = Examiner(lambda _order: KILLED)
        health = examine(HealthPass(tmp_path, runner), planned({"precision": "bf16"}))
        assert health.learns is None
        assert health.reason == (
            "the health pass ended as oom in phase build: killed for want of memory"
        )
        assert runner.precisions == ["bf16"]

    def test_a_reference_that_fails_is_not_tried_again_and_costs_no_figures(
        self, tmp_path: Path
    ) -> None:
        runner = Examiner(lambda o: KILLED if o.planned.case.knobs.precision == "fp32" else LEARNS)
        pass_ = HealthPass(tmp_path, runner)
        for precision in ("bf16", "amp-bf16"):
            health = examine(pass_, planned({"precision": precision}))
            assert health.learns is None
            assert (health.loss_first, health.loss_last, health.loss_gap) == (2.3, 1.3, None)
            assert health.reason == (
                "the fp32 reference ended as oom in phase build: killed for want of memory"
            )
        assert runner.precisions == ["bf16", "fp32", "amp-bf16"]
        # Nor is a failure kept: another session tries anew.
        again = Examiner()
        examine(HealthPass(tmp_path, again), planned({"precision": "bf16"}))
        assert again.precisions == ["bf16", "fp32"]

    def test_a_reference_that_one_case_had_no_time_for_is_tried_again(self, tmp_path: Path) -> None:
        late = End(outcome=Outcome.TIMEOUT, phase=Phase.HEALTH, reason="the case's time was up")
        runner = Examiner(lambda o: late if o.planned.case.knobs.precision == "fp32" else LEARNS)
        pass_ = HealthPass(tmp_path, runner)
        for precision in ("bf16", "amp-bf16"):
            examine(pass_, planned({"precision": precision}))
        assert runner.precisions == ["bf16", "fp32", "amp-bf16", "fp32"]

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_pass_that_the_device_refuses_is_not_started(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
    ) -> None:
        def refusals(_self: Backend, knobs: Knobs, _probe: Probe) -> list[Refusal]:
            if knobs.data.source != "device":
                return []
            return [Refusal(knob="data.source", value="device", reason="no room")]

        asked = planned({"precision": precision})
        monkeypatch.setattr(CpuBackend, "refusals", refusals)
        runner = Examiner()
        health = examine(HealthPass(tmp_path, runner), asked)
        assert runner.orders == []
        assert health.reason == (
            "the health pass ended as unsupported in phase plan: data.source=device: no room"
        )

    def test_a_reference_that_the_device_refuses_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refusals(_self: Backend, knobs: Knobs, _probe: Probe) -> list[Refusal]:
            if knobs.precision != "fp32":
                return []
            return [Refusal(knob="precision", value="fp32", reason="no such unit")]

        monkeypatch.setattr(CpuBackend, "refusals", refusals)
        runner = Examiner()
        health = examine(HealthPass(tmp_path, runner), planned({"precision": "bf16"}))
        assert runner.precisions == ["bf16"]
        assert health.reason == (
            "the fp32 reference ended as unsupported in phase plan: precision=fp32: no such unit"
        )


class TestCache:
    def test_the_next_session_finds_the_reference(self, tmp_path: Path) -> None:
        examine(HealthPass(tmp_path, Examiner()), planned({"precision": "bf16"}))
        runner = Examiner(lambda _order: FROZEN)
        health = examine(HealthPass(tmp_path, runner), planned({"precision": "bf16"}))
        assert runner.precisions == ["bf16"]
        assert (health.reference_loss_last, health.learns) == (1.3, False)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda _text: "",
            lambda text: text[: len(text) // 2],
            lambda _text: "[]",
            lambda text: text.replace('"updates"', '"something"'),
            lambda text: text.replace("[2.3,1.3]", "[2.3,2.2,1.3]"),
        ],
    )
    def test_a_file_that_is_spoilt_is_run_again_and_written_anew(
        self, tmp_path: Path, spoil: Callable[[str], str]
    ) -> None:
        examine(HealthPass(tmp_path, Examiner()), planned())
        (file,) = tmp_path.glob("cache/health/*.json")
        good = file.read_text(encoding="utf-8")
        file.write_text(spoil(good), encoding="utf-8")
        assert file.read_text(encoding="utf-8") != good
        runner = Examiner()
        assert examine(HealthPass(tmp_path, runner), planned()).learns is True
        assert runner.precisions == ["fp32"]
        assert file.read_text(encoding="utf-8") == good

    def test_another_work_has_a_file_of_its_own(self, tmp_path: Path) -> None:
        pass_ = HealthPass(tmp_path, Examiner())
        examine(pass_, planned())
        examine(pass_, planned({"learning_rate": 1e-5}))
        assert len(list(tmp_path.glob("cache/health/*.json"))) == 2
