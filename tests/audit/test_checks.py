"""Every audit check, with the lie it is there for planted and absent."""

from __future__ import annotations

import math
from typing import Final

import pytest

from bench.audit.checks import CHECKS, audit, explain
from bench.results.record import CheckResult, Noise, Weight
from bench.scenarios.schema import Knobs
from tests.audit.honest import FAIL, HONEST, NA, PASS, found, knobs


def test_honest_evidence_fails_nothing() -> None:
    results = {check.name: check.result for check in audit(HONEST)}
    assert results["collectives_real"] is NA
    assert FAIL not in results.values()


def test_every_check_explains_itself_in_a_paragraph() -> None:
    for check in CHECKS:
        text = explain(check.__name__)
        assert len(text) > 30
        assert "\n" not in text


def test_an_unknown_check_has_no_explanation() -> None:
    with pytest.raises(KeyError):
        explain("trust_me")


class TestFence:
    SEEN_QUIET: Final = Noise(co_tenant_share=0.0)

    @pytest.mark.parametrize(
        ("residual_s", "result"),
        [
            ((0.010, 0.010, 0.010), PASS),
            ((0.011, 0.011, 0.011), FAIL),
            ((0.0, 0.0, 0.9), PASS),
            ((0.0, 0.9, 0.9), FAIL),
        ],
    )
    def test_the_median_residual_may_be_one_percent_of_a_window(
        self, residual_s: tuple[float, ...], result: CheckResult
    ) -> None:
        check = found("fence_waits", residual_s=residual_s, noise=self.SEEN_QUIET)
        assert check.result is result

    @pytest.mark.parametrize("noise", [Noise(), Noise(co_tenant_share=0.3, reasons=["others"])])
    @pytest.mark.parametrize(
        ("residual_s", "result"),
        [
            ((0.0, 0.9, 0.9), PASS),
            ((0.011, 0.9, 0.9), FAIL),
            ((0.0, 0.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9), FAIL),
            ((0.0, 0.0, 0.0, 0.9, 0.9, 0.9, 0.9, 0.9), PASS),
        ],
    )
    def test_where_nobody_saw_a_quiet_machine_the_lower_quartile_is_judged(
        self, residual_s: tuple[float, ...], result: CheckResult, noise: Noise
    ) -> None:
        check = found("fence_waits", residual_s=residual_s, noise=noise)
        assert check.result is result
        assert check.evidence.startswith("lower quartile of the residual ")

    def test_a_short_window_does_not_make_the_time_of_a_read_a_lie(self) -> None:
        short = (0.004, 0.004, 0.004)
        assert found("fence_waits", window_s=short, residual_s=(0.0004,) * 3).result is PASS
        assert found("fence_waits", window_s=short, residual_s=(0.0006,) * 3).result is FAIL

    def test_a_fence_that_nobody_looked_behind_is_not_trusted(self) -> None:
        assert found("fence_waits", residual_s=()).result is FAIL

    def test_it_must_wait_in_most_windows_and_not_only_in_half_of_them(self) -> None:
        windows = (1.0,) * 8
        for late, result in [(1, PASS), (2, FAIL), (3, FAIL), (5, FAIL)]:
            residual_s = (0.05,) * late + (0.0,) * (8 - late)
            check = found(
                "fence_waits", window_s=windows, residual_s=residual_s, noise=self.SEEN_QUIET
            )
            assert check.result is result, late
            assert (f"above it in {late} of 8" in check.evidence) == (late <= 4)

    def test_on_a_disturbed_machine_a_few_may_be_somebody_elses(self) -> None:
        residual_s = (0.05,) * 3 + (0.0,) * 5
        told = {
            "window_s": (1.0,) * 8,
            "residual_s": residual_s,
            "noise": Noise(reasons=["others"]),
        }
        assert found("fence_waits", **told).result is PASS

    def test_the_evidence_gives_residual_window_and_limit(self) -> None:
        text = found("fence_waits", residual_s=(0.5,), noise=self.SEEN_QUIET).evidence
        assert text == "median residual 500.000 ms after windows of 1000.0 ms (limit 10.000 ms)"


class TestCompilations:
    def test_a_voided_window_that_was_repeated_is_no_fault(self) -> None:
        check = found("no_compile_in_window", voided_windows=2)
        assert (check.result, check.evidence) == (PASS, "2 voided, 3 clean")

    def test_compilations_that_never_stop_are(self) -> None:
        check = found("no_compile_in_window", voided_windows=3, windows_exhausted=True)
        assert check.result is FAIL
        assert check.evidence == "compilations did not stop: 3 voided, 3 clean"

    def test_a_warm_up_that_met_its_cap_is_told_with_its_reason(self) -> None:
        check = found("steady_state", steady=False, steady_reason="no steady state within 5 s")
        assert (check.result, check.evidence) == (FAIL, "no steady state within 5 s")


class TestExecutions:
    @pytest.mark.parametrize("executions", [59, 61, 0])
    def test_fewer_or_more_graphs_than_expected_fail(self, executions: int) -> None:
        check = found("executions_counted", executions=executions)
        assert (check.result, check.evidence) == (FAIL, f"{executions} executions, expected 60")

    def test_an_eager_device_has_none_to_count(self) -> None:
        eager = {"executions": None, "expected_executions": None}
        assert found("executions_counted", **eager).result is NA

    def test_a_device_that_counts_no_fallbacks_is_not_judged_by_them(self) -> None:
        assert found("no_fallbacks", fallbacks=None).result is NA

    @pytest.mark.parametrize(("fallbacks", "result"), [({}, PASS), ({"aten::nonzero": 1}, FAIL)])
    def test_fallbacks_are_judged_where_executions_are_not_counted(
        self, fallbacks: dict[str, int], result: CheckResult
    ) -> None:
        check = found(
            "no_fallbacks", executions=None, expected_executions=None, fallbacks=fallbacks
        )
        assert check.result is result

    def test_a_compiled_module_cuts_graphs_of_its_own(self) -> None:
        compiled = knobs(compile="openxla")
        assert found("executions_counted", knobs=compiled, executions=180).result is NA

    def test_operators_on_the_host_are_named_with_their_count(self) -> None:
        check = found("no_fallbacks", fallbacks={"aten::nonzero": 30, "aten::addmm": 2})
        assert check.result is FAIL
        assert check.evidence == "operators that ran on the host: aten::addmm x2, aten::nonzero x30"


class TestTraining:
    @pytest.mark.parametrize(("share", "result"), [(0.0, FAIL), (0.49, FAIL), (0.5, PASS)])
    def test_at_least_half_of_the_tensors_must_move(
        self, share: float, result: CheckResult
    ) -> None:
        assert found("parameters_moved", moved_share=share).result is result

    def test_a_parameter_that_is_trained_no_more_fails_however_many_moved(self) -> None:
        check = found("parameters_moved", moved_share=0.97, untrained=("head.bias",))
        assert (check.result, check.evidence) == (
            FAIL,
            "97% of the trainable tensors moved; frozen after the build, or not in the optimizer: "
            "head.bias",
        )
        many = found("parameters_moved", untrained=tuple("abcde"))
        assert many.evidence.endswith(": a, b, c and 2 more")

    @pytest.mark.parametrize("updates", [0, 29, 31, 60])
    def test_every_update_counts_once(self, updates: int) -> None:
        check = found("updates_counted", updates=updates)
        assert (check.result, check.evidence) == (FAIL, f"{updates} updates, expected 30")

    def test_updates_that_the_loss_scaler_skipped_are_told(self) -> None:
        check = found("updates_counted", updates=30, skipped_updates=0)
        assert check.evidence == "30 updates, expected 30; 0 skipped by the loss scaler"
        assert check.result is PASS

    @pytest.mark.parametrize(
        ("micro_batches", "skipped", "result"),
        [(400, 2, PASS), (400, 3, FAIL), (60, 1, FAIL), (8000, 40, PASS)],
    )
    def test_up_to_one_in_a_hundred_skipped_updates_are_borne(
        self, micro_batches: int, skipped: int, result: CheckResult
    ) -> None:
        """Two micro-batches make an update of the honest launch."""
        made = micro_batches // 2 - skipped
        changes = {"micro_batches": micro_batches, "updates": made, "skipped_updates": skipped}
        assert found("updates_counted", **changes).result is result

    def test_an_update_that_nobody_made_or_skipped_fails(self) -> None:
        changes = {"micro_batches": 800, "updates": 398, "skipped_updates": 1}
        assert found("updates_counted", **changes).result is FAIL

    def test_inference_neither_updates_nor_moves_nor_loses(self) -> None:
        changes = {
            "knobs": Knobs(task="infer"),
            "updates": None,
            "moved_share": None,
            "loss_first": None,
            "loss_last": None,
        }
        for name in ("parameters_moved", "updates_counted", "loss_finite"):
            assert found(name, **changes).result is NA

    @pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("which", ["loss_first", "loss_last"])
    def test_a_loss_that_is_no_number_fails(self, which: str, loss: float) -> None:
        assert found("loss_finite", **{which: loss}).result is FAIL


class TestBatch:
    def test_a_halved_batch_fails_even_where_the_sum_is_claimed(self) -> None:
        halved = found("batch_as_asked", batch_sizes=frozenset({4}), samples=240)
        assert halved.result is FAIL
        assert halved.evidence == "batch sizes seen: 4; asked 8; 240 samples"
        assert found("batch_as_asked", batch_sizes=frozenset({4})).result is FAIL

    def test_one_short_batch_among_many_fails(self) -> None:
        assert found("batch_as_asked", batch_sizes=frozenset({3, 8}), samples=475).result is FAIL

    def test_samples_that_were_never_issued_fail(self) -> None:
        assert found("batch_as_asked", samples=472).result is FAIL

    def test_no_batch_at_all_fails(self) -> None:
        nothing = found("batch_as_asked", batch_sizes=frozenset(), samples=0)
        assert nothing.result is FAIL
        assert nothing.evidence.startswith("batch sizes seen: none")


class TestAskedAndActual:
    def test_a_substitution_is_told_with_both_values(self) -> None:
        check = found("as_asked", actual={"precision": "fp32", "engine": "ddp"})
        assert (check.result, check.evidence) == (FAIL, "engine: asked plain, ran ddp")

    def test_what_cannot_be_read_back_is_not_taken_on_trust(self) -> None:
        check = found("as_asked", actual={"precision": "fp32"})
        assert (check.result, check.evidence) == (FAIL, "engine: asked plain, ran None")

    def test_what_nobody_asked_for_may_be_anything(self) -> None:
        assert found("as_asked").result is PASS


class TestCollectives:
    def test_several_processes_without_a_probe_fail(self) -> None:
        two = knobs(processes=2)
        assert found("collectives_real", knobs=two).result is FAIL
        proof = "world 2 of 2, all-reduce of rank + 1 gives 3"
        check = found("collectives_real", knobs=two, collectives=proof)
        assert (check.result, check.evidence) == (PASS, proof)


class TestCompiledWhole:
    COMPILED = Knobs(compile="inductor")

    def test_one_graph_passes(self) -> None:
        counted = {"graph_breaks": {}, "graphs_skipped": 0, "recompiles": 2}
        check = found("compiled_whole", knobs=self.COMPILED, **counted)
        assert check.result is PASS
        assert check.evidence.endswith("compiled anew for other shapes or settings: 2")

    def test_every_break_is_told_with_its_reason_and_marks_no_number(self) -> None:
        breaks = {"Data-dependent branching": 12}
        check = found("compiled_whole", knobs=self.COMPILED, graph_breaks=breaks)
        assert check.result is FAIL
        assert "gave back to Python: Data-dependent branching (12)" in check.evidence
        assert check.weight is Weight.REMARK

    def test_a_mode_that_made_no_cuda_graph_is_told(self) -> None:
        check = found("compiled_whole", knobs=self.COMPILED, graph_breaks={}, graphs_skipped=3)
        assert check.result is FAIL
        assert "CUDA graphs that were not made: 3" in check.evidence

    def test_it_says_nothing_where_nothing_is_compiled_or_counted(self) -> None:
        assert found("compiled_whole", graph_breaks={"x": 1}).result is NA
        assert found("compiled_whole", knobs=self.COMPILED).result is NA
