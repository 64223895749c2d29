"""What a number used: joules of a sample, and the share of the device's peak, or why not."""

from __future__ import annotations

from typing import Any

import pytest

from bench.results.record import Energy, Inspection, Launch, Outcome, Peak
from bench.results.usage import (
    energy_per_sample,
    flops_per_sample,
    model_flops_utilisation,
    scaled,
)
from tests.builders import a_case, a_launch, a_record, launches_of

PEAK = Peak(flops_per_s=1e12, dtype="bf16", device="Test H1", source="its data sheet")


def metered(joules: float | None, seconds: float | None = None, **fields: Any) -> Launch:
    """Return a launch of three windows of a second with 8 samples each."""
    energy = Energy(
        joules=joules,
        seconds=seconds,
        source=fields.pop("source", "a counter"),
        reason="no counter" if joules is None else None,
    )
    return a_launch(energy=energy, **fields)


class TestEnergy:
    def test_is_the_joules_over_the_samples_of_all_windows(self) -> None:
        found = energy_per_sample([metered(240.0, 3.0)])
        assert found.value == pytest.approx(10.0)
        assert found.source == "a counter"
        assert found.reason is None

    def test_counts_the_samples_of_all_ranks_once(self) -> None:
        launch = metered(240.0, 3.0, window_s=[[1.0, 1.0, 1.0]] * 4, samples_per_window=32)
        assert energy_per_sample([launch]).value == pytest.approx(240.0 / 96)

    def test_leaves_out_the_share_of_the_pauses_between_the_windows(self) -> None:
        # 240 J in 3.2 s are 75 W, and the 24 samples took 3 s of it.
        found = energy_per_sample([metered(240.0, 3.2)])
        assert found.value == pytest.approx(75.0 * 3.0 / 24)

    def test_of_several_launches_is_a_ratio_of_totals(self) -> None:
        launches = [metered(240.0, 3.0), metered(120.0, 1.0, window_s=[[1.0]])]
        assert energy_per_sample(launches).value == pytest.approx(360.0 / 32)

    def test_comes_from_the_launches_that_have_it_and_says_so(self) -> None:
        found = energy_per_sample([metered(240.0, 3.0), metered(None)])
        assert found.value == pytest.approx(10.0)
        assert found.source == "a counter in 1 of 2 launches"

    def test_that_was_not_read_over_the_windows_is_unknown(self) -> None:
        found = energy_per_sample([metered(240.0, 9.0)])
        assert found.value is None
        assert found.reason == "the counter was read over 9.0 s, and the windows are 3.0 s of that"

    def test_of_different_counters_is_not_added(self) -> None:
        found = energy_per_sample([metered(240.0), metered(240.0, source="another")])
        assert found.value is None
        assert found.reason == "its launches read different counters: a counter, another"

    def test_is_unknown_with_the_reason_of_the_first_launch(self) -> None:
        assert energy_per_sample([metered(None)]).reason == "no counter"
        assert energy_per_sample([a_launch()]).reason == (
            "an older version measured it, without energy"
        )
        assert energy_per_sample([]).reason == "no launch was measured"


class TestUtilisation:
    def test_is_the_models_flops_a_second_over_the_peak(self) -> None:
        # 10 samples/s x 5e9 FLOP = 5e10 FLOP/s of 1e12: 5 %.
        record = a_record(launches=launches_of(10.0, 10.0, flops_per_sample=5e9, peak=PEAK))
        found = model_flops_utilisation(record)
        assert found.value == pytest.approx(0.05)
        assert found.source == "1 TFLOP/s, bf16, Test H1 (its data sheet)"

    def test_is_that_of_one_device_of_several(self) -> None:
        record = a_record(
            a_case(knobs={"processes": 4}),
            launches=launches_of(10.0, flops_per_sample=5e9, peak=PEAK),
        )
        assert model_flops_utilisation(record).value == pytest.approx(0.0125)

    @pytest.mark.parametrize("case", [{"processes": 4}, {"engine": "spmd", "spmd": {"devices": 4}}])
    def test_devices_count_whichever_process_has_them(self, case: dict[str, Any]) -> None:
        record = a_record(
            a_case(knobs=case), launches=launches_of(10.0, flops_per_sample=5e9, peak=PEAK)
        )
        assert model_flops_utilisation(record).value == pytest.approx(0.0125)

    def test_needs_the_flops_and_the_peak_of_any_launch(self) -> None:
        launches = launches_of(10.0, 10.0)
        launches[0] = launches[0].model_copy(update={"flops_per_sample": 5e9, "peak": PEAK})
        assert model_flops_utilisation(a_record(launches=launches)).value == pytest.approx(0.05)
        assert flops_per_sample(launches) == 5e9

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"peak": PEAK}, "the FLOPs of a sample are not known"),
            (
                {"flops_per_sample": 5e9},
                "no peak is known of this device in the type of its products",
            ),
            *(
                (
                    {"flops_per_sample": 5e9, "peak": PEAK.model_copy(update={"dtype": dtype})},
                    f"its products are quantised ({dtype})",
                )
                for dtype in ("fp8", "float8_e4m3fn", "f8e4m3", "int8", "s8", "u4", "fp4")
            ),
            (
                {
                    "flops_per_sample": 5e9,
                    "peak": PEAK,
                    "inspection": Inspection(matmul_format="fp8"),
                },
                "its products are quantised, and a peak of full ones says nothing about them",
            ),
        ],
    )
    def test_is_unknown_with_a_reason(self, fields: dict[str, Any], reason: str) -> None:
        found = model_flops_utilisation(a_record(launches=launches_of(10.0, **fields)))
        assert found.value is None
        assert found.reason == reason

    @pytest.mark.parametrize("dtype", ["fp32", "tf32", "fp16", "bf16", "float16", "f64"])
    def test_of_full_products_is_given(self, dtype: str) -> None:
        peak = PEAK.model_copy(update={"dtype": dtype})
        record = a_record(launches=launches_of(10.0, flops_per_sample=5e9, peak=peak))
        assert model_flops_utilisation(record).value == pytest.approx(0.05)

    def test_over_launches_of_different_types_is_unknown(self) -> None:
        launches = launches_of(10.0, 10.0, flops_per_sample=5e9, peak=PEAK)
        other = PEAK.model_copy(update={"dtype": "fp32"})
        launches[1] = launches[1].model_copy(update={"peak": other})
        found = model_flops_utilisation(a_record(launches=launches))
        assert found.value is None
        assert found.reason == "its launches computed in different types: bf16, fp32"

    def test_of_a_case_without_a_number_is_unknown(self) -> None:
        found = model_flops_utilisation(a_record(outcome=Outcome.CRASH))
        assert found.reason == "there is no throughput"


@pytest.mark.parametrize(
    ("value", "text"),
    [(7.464e9, "7.464 G"), (989e12, "989 T"), (12.0, "12 "), (1000.0, "1 k"), (0.0, "0 ")],
)
def test_a_count_is_written_with_the_prefix_of_its_unit(value: float, text: str) -> None:
    assert scaled(value) == text
