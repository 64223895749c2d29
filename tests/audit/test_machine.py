"""Clocks that were held or not, and processors that others used."""

from __future__ import annotations

import dataclasses

import pytest

from bench.audit.held_back import held_back
from bench.results.record import CheckResult, Clocks, Noise
from tests.audit.honest import FAIL, HONEST, NA, PASS, found

CPUFREQ = Clocks(source="scaling_cur_freq", mhz_min=3000.0, mhz_max=3100.0)


class TestClocks:
    def test_a_device_that_tells_nothing_is_not_judged(self) -> None:
        assert found("clocks_held", clocks=None).result is NA

    def test_a_clock_that_stays_is_told_with_its_source(self) -> None:
        check = found("clocks_held", clocks=CPUFREQ, clock_mhz=(3000.0, 3100.0, 3050.0))
        assert (check.result, check.evidence) == (PASS, "3000 to 3100 MHz (scaling_cur_freq)")

    def test_a_reason_of_the_device_is_enough(self) -> None:
        hot = Clocks(source="counters", throttled=["the processor was too hot"])
        check = found("clocks_held", clocks=hot)
        assert check.result is FAIL
        assert check.evidence == (
            "the processor was too hot: cool the device, or fix its clock below what it can hold"
        )

    def test_a_clock_that_falls_by_a_fifth_half_way_is_told_with_both_rates(self) -> None:
        rates = (3000.0,) * 5 + (2400.0,) * 5
        check = found("clocks_held", clocks=CPUFREQ, clock_mhz=rates)
        assert check.result is FAIL
        assert check.evidence.startswith(
            "the clock fell from 3000 to 2400 MHz, below 90% of that after 5 of 10 windows"
        )

    @pytest.mark.parametrize(
        ("rates", "result"),
        [
            ((3000.0,) * 5 + (2710.0,) * 5, PASS),
            ((3000.0,) * 5 + (2690.0,) * 5, FAIL),
            ((3000.0,) * 9 + (1000.0,), PASS),
            ((3000.0,) * 8 + (1000.0,) * 2, FAIL),
            ((3000.0,) * 18 + (1000.0,) * 3, PASS),
            ((4000.0,) + (3000.0,) * 9, PASS),
            ((3000.0, 3000.0, 1000.0, 1000.0), FAIL),
            ((3000.0, 1000.0, 1000.0), FAIL),
            ((3000.0, 3000.0, 1000.0), PASS),
        ],
    )
    def test_so_much_below_its_usual_rate_and_so_often(
        self, rates: tuple[float, ...], result: CheckResult
    ) -> None:
        assert found("clocks_held", clocks=CPUFREQ, clock_mhz=rates).result is result

    def test_without_rates_only_the_devices_reasons_count(self) -> None:
        blind = Clocks(source="thermal throttle counters")
        check = found("clocks_held", clocks=blind)
        assert (check.result, check.evidence) == (
            PASS,
            "no reason to slow down (thermal throttle counters)",
        )

    def test_a_neighbour_on_the_core_shows_in_the_fixed_calculation(self) -> None:
        paces = (100.0,) * 6 + (170.0,) * 3 + (160.0,)
        check = found("clocks_held", clocks=CPUFREQ, calculation_us=paces)
        assert check.result is FAIL
        assert check.evidence.startswith(
            "a fixed calculation that took 100 us at the usual speed took up to 170 us, over 11 % "
            "longer after 4 of 10 windows"
        )

    @pytest.mark.parametrize(
        "paces", [(100.0,) * 9 + (170.0,), (100.0, 109.0) * 5, (100.0,) + (60.0,) * 9, ()]
    )
    def test_a_single_slow_calculation_or_a_small_change_is_none(
        self, paces: tuple[float, ...]
    ) -> None:
        assert found("clocks_held", clocks=CPUFREQ, calculation_us=paces).result is PASS

    def test_it_is_not_judged_where_the_other_side_meets_the_same(self) -> None:
        paces = (100.0, 170.0) * 5
        check = found("clocks_held", clocks=CPUFREQ, calculation_us=paces, in_turns=True)
        assert check.result is PASS

    def test_a_disturbed_device_is_not_quiet(self) -> None:
        slowed = dataclasses.replace(HONEST, clocks=CPUFREQ, calculation_us=(100.0, 170.0) * 5)
        assert not slowed.quiet
        assert dataclasses.replace(slowed, calculation_us=(100.0, 101.0) * 5).quiet

    def test_rates_are_judged_without_a_source(self) -> None:
        assert len(held_back(None, (3000.0, 3000.0, 1000.0, 1000.0))) == 1


class TestQuiet:
    def test_others_who_used_the_processors_are_told(self) -> None:
        noise = Noise(co_tenant_share=0.3, reasons=["other processes used 30 %"])
        check = found("machine_quiet", noise=noise)
        assert (check.result, check.evidence) == (FAIL, "other processes used 30 %")

    def test_a_quiet_machine_passes_and_one_without_counters_is_not_judged(self) -> None:
        assert found("machine_quiet", noise=Noise(co_tenant_share=0.01)).result is PASS
        assert found("machine_quiet", noise=Noise()).result is NA
