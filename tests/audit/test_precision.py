"""The precision that ran and the peak of the device, with each lie planted and absent."""

from __future__ import annotations

from typing import Any

import pytest

from bench.results.record import CheckResult, Inspection, Peak
from bench.scenarios.schema import Knobs
from tests.audit.honest import FAIL, NA, PASS, found, knobs

DISPATCHED, HLO = "dispatched operators", "the compiler's input (HLO)"
H200 = Peak(flops_per_s=989.5e12, dtype="bf16", device="NVIDIA H200 SXM", source="a datasheet")


def precision(asked: str, **inspected: Any) -> tuple[CheckResult, str]:
    check = found(
        "precision_ran",
        knobs=knobs(precision=asked),
        inspection=Inspection.model_validate(inspected),
    )
    return check.result, check.evidence


class TestPrecision:
    @pytest.mark.parametrize(
        ("asked", "types", "rounds_to"),
        [
            ("fp32", {"fp32": 33}, "fp32"),
            ("tf32", {"fp32": 33}, "tf32"),
            ("amp-bf16", {"bf16": 33}, "bf16"),
            ("amp-fp16", {"fp16": 33}, "fp16"),
            ("amp-fp16", {"fp16": 30, "fp32": 12}, "fp16"),
            ("bf16", {"bf16": 33}, "bf16"),
            # Attention that is not fused multiplies in float32: a ViT of 2 and of 12 blocks on XLA.
            ("bf16", {"bf16": 30, "fp32": 12}, "bf16"),
            ("bf16", {"bf16": 150, "fp32": 72}, "bf16"),
            ("bf16-env", {"bf16": 42}, "bf16"),
            ("bf16-env", {"fp32": 42}, "bf16"),
            # A ViT of 12 blocks: fused attention, the classifier and the patches stay in bf16.
            ("fp8-tensorwise", {"fp8": 144, "bf16": 29}, "bf16"),
            ("fp8-rowwise", {"fp8": 144, "bf16": 29, "fp32": 1}, "bf16"),
        ],
    )
    def test_what_honest_runs_show_passes(
        self, asked: str, types: dict[str, int], rounds_to: str
    ) -> None:
        assert precision(asked, matmul_types=types, matmul_format=rounds_to)[0] is PASS

    @pytest.mark.parametrize(
        ("asked", "types", "rounds_to"),
        [
            # An autocast that does nothing, and weights that were never cast.
            ("amp-bf16", {"fp32": 33}, "fp32"),
            ("bf16", {"fp32": 33}, "fp32"),
            # Either witness alone is enough.
            ("amp-bf16", {"fp32": 33}, "bf16"),
            ("amp-bf16", {"bf16": 33}, "fp32"),
            ("amp-bf16", {"fp32": 33}, None),
            ("amp-bf16", None, "fp32"),
            # Most of the step left out of autocast.
            ("amp-bf16", {"bf16": 16, "fp32": 17}, "bf16"),
            # A flag that did nothing, and one that did too much.
            ("tf32", {"fp32": 33}, "fp32"),
            ("tf32", {"tf32": 33}, "bf16"),
            ("amp-fp16", {"bf16": 33}, "bf16"),
            ("amp-fp16", {"fp32": 33}, "fp32"),
            ("amp-fp16", {"fp16": 33}, "tf32"),
            # Faster than what was asked for.
            ("fp32", {"bf16": 33}, "bf16"),
            ("fp32", {"fp32": 32, "bf16": 1}, "fp32"),
            ("fp32", {"fp32": 33}, "tf32"),
            ("fp32", {"fp32": 33}, "bf16"),
            ("fp32", {"fp32": 32, "int8": 1}, "fp32"),
            ("amp-bf16", {"bf16": 32, "fp8": 1}, "bf16"),
            ("bf16", {"bf16": 32, "fp16": 1}, "bf16"),
            # Layers that were left as they were, converted in part, or emulated.
            ("fp8-tensorwise", {"bf16": 173}, "bf16"),
            ("fp8-rowwise", {"fp8": 12, "bf16": 161}, "bf16"),
            ("fp8-rowwise", {"fp32": 144, "bf16": 29}, "bf16"),
            ("fp8-tensorwise", {"fp8": 144, "fp16": 29}, "bf16"),
            ("fp8-tensorwise", {"fp8": 144, "bf16": 29}, "fp32"),
            ("bf16", {"bf16": 32, "bf16+fp8": 1}, "bf16"),
            # The environment variable that did not act.
            ("bf16-env", {"bf16": 33}, "fp32"),
        ],
    )
    def test_products_of_another_precision_fail(
        self, asked: str, types: dict[str, int] | None, rounds_to: str | None
    ) -> None:
        assert precision(asked, matmul_types=types, matmul_format=rounds_to)[0] is FAIL

    @pytest.mark.parametrize(
        ("cast", "rounds_to", "result"),
        [
            ("bf16", "bf16", PASS),
            ("fp16", "fp16", PASS),
            ("tf32", "tf32", PASS),
            ("fp8_e4m3", "fp8", PASS),
            # A compiler that did not cast, and one that cast to something else.
            ("bf16", "fp32", FAIL),
            ("fp8_e4m3", "bf16", FAIL),
            # A product that rounds to nothing known: the types are the same either way.
            ("bf16", None, FAIL),
            ("fp8_e4m3", None, FAIL),
        ],
    )
    def test_a_cast_by_the_compiler_shows_in_the_rounding_and_in_no_type(
        self, cast: str, rounds_to: str | None, result: CheckResult
    ) -> None:
        check = found(
            "precision_ran",
            knobs=knobs(neuron={"auto_cast": "all", "auto_cast_type": cast}),
            inspection=Inspection(
                matmul_types={"fp32": 33},
                matmul_format=rounds_to,
                matmul_finite=True,
                matmul_error=0.5,
            ),
        )
        assert check.result is result
        assert f"asked fp32 cast to {cast} by the compiler" in check.evidence
        assert "33 in fp32" in check.evidence
        assert "which look the same whether or not they are rounded" in check.evidence

    def test_nothing_is_said_of_a_cast_where_no_product_tells(self) -> None:
        check = found(
            "precision_ran",
            knobs=knobs(neuron={"auto_cast": "all", "auto_cast_type": "bf16"}),
            inspection=Inspection(matmul_types={"fp32": 33}),
        )
        assert check.result is NA

    @pytest.mark.parametrize("rounds_to", ["bf16", None])
    def test_types_that_were_not_asked_for_fail_though_a_compiler_casts(
        self, rounds_to: str | None
    ) -> None:
        check = found(
            "precision_ran",
            knobs=knobs(neuron={"auto_cast": "all", "auto_cast_type": "bf16"}),
            inspection=Inspection(matmul_types={"fp16": 33}, matmul_format=rounds_to),
        )
        assert check.result is FAIL

    @pytest.mark.parametrize(("finite", "result"), [(True, FAIL), (None, NA)])
    def test_nor_do_types_show_tf32(self, finite: bool | None, result: CheckResult) -> None:
        types = {"fp32": 33}
        assert precision("tf32", matmul_types=types, matmul_finite=finite)[0] is result

    @pytest.mark.parametrize("asked", ["fp32", "tf32", "amp-bf16", "bf16", "fp8-rowwise"])
    def test_a_product_that_is_no_number_fails_whatever_was_asked_for(self, asked: str) -> None:
        types = {"fp32": 33} if asked in ("fp32", "tf32") else {"bf16": 33}
        types = {"fp8": 33} if asked == "fp8-rowwise" else types
        result, text = precision(asked, matmul_types=types, matmul_finite=False)
        assert result is FAIL
        assert "a known product came back as NaN or infinity" in text

    def test_without_a_cast_the_types_alone_are_a_witness(self) -> None:
        assert precision("fp32", matmul_types={"fp32": 33}, matmul_format=None)[0] is PASS

    def test_the_evidence_gives_both_witnesses(self) -> None:
        _, text = precision(
            "bf16",
            matmul_types={"fp32": 12, "bf16": 30},
            matmul_source=HLO,
            matmul_format="bf16",
            matmul_error=2.86e-3,
        )
        assert text == (
            "asked bf16: products of a period: 30 in bf16, 12 in fp32, counted in the compiler's "
            "input (HLO); a known product rounds to bf16 (relative error 2.9e-03)"
        )

    def test_where_the_compiler_casts_the_types_in_the_graph_are_told_and_not_judged(self) -> None:
        result, text = precision("bf16-env", matmul_types={"fp32": 42}, matmul_format="bf16")
        assert result is PASS
        assert "42 in fp32" in text
        assert "XLA_USE_BF16 acts where the graph is handed over, so its types are not" in text

    def test_a_graph_that_cannot_be_seen_leaves_one_witness_and_the_reason(self) -> None:
        why = "products: the device does not show them with compile=openxla"
        result, text = precision("fp32", matmul_format="fp32", skipped=["gradients: x", why])
        assert result is PASS
        assert why in text
        assert precision("fp32", matmul_format="tf32", skipped=[why])[0] is FAIL

    def test_without_any_witness_nothing_is_said(self) -> None:
        assert (
            precision("fp32", skipped=["products: none was seen among dispatched operators"])[0]
            is NA
        )
        assert found("precision_ran", inspection=None).result is NA


def speed(samples_per_s: float | None, **changes: Any) -> tuple[CheckResult, str]:
    evidence = {
        "flops_per_sample": 105e9,
        "peaks": (H200,),
        "samples_per_s": samples_per_s,
        **changes,
    }
    check = found("flops_below_peak", **evidence)
    return check.result, check.evidence


class TestPeak:
    def test_more_than_the_device_can_do_fails(self) -> None:
        """ViT-B/16 trained: 105 GFLOP a sample, so 9,424 samples/s are all of an H200."""
        assert speed(9_400)[0] is PASS
        assert speed(9_430)[0] is FAIL

    def test_the_evidence_gives_the_share_and_the_source(self) -> None:
        assert speed(1000)[1] == (
            "105 TFLOP/s on a device, 10.6% of the 989.5 TFLOP/s of NVIDIA H200 SXM in bf16 "
            "(a datasheet)"
        )

    def test_an_unknown_device_is_not_judged(self) -> None:
        looked = Inspection(matmul_types={"fp32": 1})
        result, text = speed(1e9, peaks=(), inspection=looked)
        assert (result, text) == (
            NA,
            "no peak is known for this device in every type of its products",
        )
        assert speed(1e9, peaks=())[1] == "this launch was not looked into"

    def test_products_in_several_types_are_held_against_the_fastest(self) -> None:
        fp8 = H200.model_copy(update={"flops_per_s": 1979e12, "dtype": "fp8"})
        assert speed(9_430, peaks=(H200, fp8))[0] is PASS
        result, text = speed(18_900, peaks=(H200, fp8))
        assert result is FAIL
        assert "1979 TFLOP/s of NVIDIA H200 SXM in fp8" in text

    @pytest.mark.parametrize("unknown", ["flops_per_sample", "samples_per_s"])
    def test_an_unknown_model_or_rate_is_not_judged(self, unknown: str) -> None:
        assert speed(**{"samples_per_s": 1e9, unknown: None})[0] is NA


def drawn(source: dict[str, Any], seen: int, distinct: int, **changes: Any) -> CheckResult:
    """Return what is found of batches from this source; their pixels deviate as they should."""
    inspected = {"batches_seen": seen, "batches_distinct": distinct, "input_deviation": 1.0}
    case = Knobs.model_validate({"batch_size": 8, "data": source} | changes)
    looked = Inspection.model_validate(inspected)
    return found("batches_as_asked", knobs=case, inspection=looked).result


class TestBatches:
    @pytest.mark.parametrize(
        ("source", "seen", "distinct"),
        [
            ({"source": "random"}, 4, 4),
            ({"source": "cached"}, 11, 8),
            ({"source": "cached", "pool": 1}, 6, 1),
            ({"source": "cached", "pool": 40}, 18, 18),
            ({"source": "device", "pool": 3}, 6, 3),
            ({"source": "device", "pool": 3}, 6, 5),
            # Two workers hand out the same pool in turns: 1 1 2 2 3 3 4 4 5.
            ({"source": "cached", "workers": 2}, 9, 5),
            ({"source": "cached", "workers": 8}, 9, 2),
            ({"source": "jpeg"}, 6, 6),
        ],
    )
    def test_what_the_source_promises_passes(
        self, source: dict[str, Any], seen: int, distinct: int
    ) -> None:
        assert drawn(source, seen, distinct) is PASS

    @pytest.mark.parametrize(
        ("source", "seen", "distinct"),
        [
            ({"source": "random"}, 4, 3),
            ({"source": "random"}, 16, 1),
            ({"source": "cached"}, 11, 7),
            ({"source": "cached"}, 11, 1),
            ({"source": "device", "pool": 3}, 6, 1),
            ({"source": "cached", "workers": 8}, 9, 1),
            ({"source": "jpeg"}, 6, 5),
            ({"source": "folder:images"}, 6, 5),
        ],
    )
    def test_repeats_that_nobody_asked_for_fail(
        self, source: dict[str, Any], seen: int, distinct: int
    ) -> None:
        assert drawn(source, seen, distinct) is FAIL

    def test_images_without_augmentation_may_come_twice_by_chance(self) -> None:
        infer = {"task": "infer"}
        assert drawn({"source": "jpeg"}, 6, 3, **infer) is PASS
        assert drawn({"source": "jpeg"}, 6, 2, **infer) is FAIL
        assert drawn({"source": "jpeg", "images": 1}, 6, 1, **infer, batch_size=1) is PASS

    @pytest.mark.parametrize("deviation", [0.0, 3e-8, float("nan"), None])
    def test_constant_inputs_fail_however_many_they_are(self, deviation: float | None) -> None:
        looked = Inspection(batches_seen=6, batches_distinct=6, input_deviation=deviation)
        assert found("batches_as_asked", inspection=looked).result is FAIL

    def test_the_evidence_gives_the_figures(self) -> None:
        looked = Inspection(batches_seen=11, batches_distinct=1, input_deviation=0.98765)
        cached = knobs(data={"source": "cached"})
        check = found("batches_as_asked", knobs=cached, inspection=looked)
        assert check.evidence == (
            "1 different batch among 11 (a pool of 8), standard deviation of the pixels 0.988"
        )

    def test_a_launch_that_was_not_looked_into_is_not_judged(self) -> None:
        assert found("batches_as_asked", inspection=None).result is NA
        assert found("batches_as_asked", inspection=Inspection()).result is NA


class TestGradients:
    @pytest.mark.parametrize(
        ("kept", "result"),
        [(1.0, PASS), (1.00005, PASS), (0.9998, FAIL), (0.01, FAIL), (2.0, FAIL)],
    )
    def test_the_norm_must_stay_whole(self, kept: float, result: CheckResult) -> None:
        check = found("gradients_untouched", inspection=Inspection(gradient_kept=kept))
        assert check.result is result
        assert check.evidence.endswith(f": {kept:g}")

    def test_what_was_not_compared_is_told_with_its_reason(self) -> None:
        looked = Inspection(skipped=["products: x", "gradients: inference has none"])
        check = found("gradients_untouched", inspection=looked)
        assert (check.result, check.evidence) == (NA, "gradients: inference has none")
        assert found("gradients_untouched", inspection=None).result is NA
