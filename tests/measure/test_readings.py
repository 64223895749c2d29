"""What readings between windows add up to: memory, energy and clocks, to the last digit."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from bench.measure.alignment import Alignment
from bench.measure.readings import (
    NO_GAUGE,
    Around,
    Reading,
    after_each,
    calculation_us,
    clock_mhz,
    clocks,
    clocks_of_all,
    energy,
    energy_of_all,
    memory_bytes,
    throughout,
)
from bench.measure.windows import Measured, WindowPlan, measure_windows
from bench.results.record import Clocks, Energy
from tests.measure.fakes import TICK, FakeClock, FakePeers, FakeTarget

EAGER = Alignment()


@dataclass
class FakeMeter:
    source: str | None = "a counter"
    period_s: float = 0.0
    reason: str | None = None


class FakeGauge:
    """A device of 8 W whose memory grows by 1,000 bytes with every reading."""

    def __init__(self, clock: FakeClock, pause_s: float = 0.0) -> None:
        self.clock = clock
        self.pause_s = pause_s
        self.readings = 0

    def read(self) -> Reading:
        self.clock.log.append("gauge")
        self.readings += 1
        at_s = self.clock.time
        self.clock.spend(self.pause_s)
        return Reading(
            at_s=at_s, memory_bytes=1000 * self.readings, joules=8 * at_s, mhz=3000 - self.readings
        )


def measured(target: FakeTarget, gauge: FakeGauge, windows: int = 3, periods: int = 4) -> Measured:
    plan = WindowPlan(periods, windows)
    return measure_windows(target, EAGER, plan, clock=target.clock, gauge=gauge)


def around(*joules: float | None) -> list[Around]:
    readings = [Reading(at_s=float(i), joules=value) for i, value in enumerate(joules)]
    return [Around(a, b) for a, b in itertools.pairwise(readings)]


def test_a_reading_is_taken_before_the_first_window_and_right_after_every_one() -> None:
    log: list[str] = []
    target = FakeTarget(FakeClock(log))
    plan = WindowPlan(2, 2)
    gauge = FakeGauge(target.clock)
    measure_windows(target, EAGER, plan, clock=target.clock, peers=FakePeers(log), gauge=gauge)
    window = ["fence", "barrier", "clock", "advance 2", "fence", "clock", "residual", "gauge"]
    assert log == ["gauge", *window, *window]


def test_what_a_reading_costs_is_in_no_window() -> None:
    clock = FakeClock()
    result = measured(FakeTarget(clock), FakeGauge(clock, pause_s=5.0))
    assert result.window_s == [4 * TICK] * 3


def test_the_energy_is_that_between_the_readings_around_the_windows() -> None:
    clock = FakeClock()
    result = measured(FakeTarget(clock), FakeGauge(clock))
    found = energy(result.readings, result.window_s, FakeMeter())
    assert found == Energy(joules=8 * 12 * TICK, seconds=12 * TICK, source="a counter")


def test_energy_of_a_voided_window_and_of_settling_is_left_out() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, compile_s={5: 100.0})
    result = measured(target, FakeGauge(clock))
    assert result.voided == 1
    found = energy(result.readings, result.window_s, FakeMeter())
    assert (found.joules, found.seconds) == (8 * 12 * TICK, 12 * TICK)


def test_energy_of_another_launch_that_computes_by_turns_is_left_out() -> None:
    clock = FakeClock()

    class Turn:
        def wait(self) -> bool:
            clock.spend(50.0)
            return True

    plan = WindowPlan(4, 3)
    target, gauge = FakeTarget(clock), FakeGauge(clock)
    result = measure_windows(target, EAGER, plan, clock=clock, gauge=gauge, turns=Turn())
    found = energy(result.readings, result.window_s, FakeMeter())
    assert (found.joules, found.seconds) == (8 * 12 * TICK, 12 * TICK)


def test_figures_stay_with_their_windows_when_some_are_voided_and_leading_ones_dropped() -> None:
    clock = FakeClock()
    target = FakeTarget(
        clock, lambda i: TICK * (1.5 if i < 3 else 1.0), compile_s={1: 1.0, 10: 1.0}
    )
    gauge = FakeGauge(clock)
    plan = WindowPlan(1, 12)
    result = measure_windows(target, EAGER, plan, clock=clock, gauge=gauge)
    assert result.voided == 2
    assert 0 < result.dropped < 3
    assert len(result.readings) == len(result.window_s) == 12 - result.dropped
    for seconds, (before, after) in zip(result.window_s, result.readings, strict=True):
        assert after.at_s - before.at_s == pytest.approx(seconds)
    assert memory_bytes(after_each(result.readings))[-1] == 1000 * gauge.readings


def test_memory_and_clock_are_those_after_each_window() -> None:
    clock = FakeClock()
    result = measured(FakeTarget(clock), FakeGauge(clock))
    assert memory_bytes(after_each(result.readings)) == [2000, 3000, 4000]
    assert clock_mhz(result.readings) == [2998, 2997, 2996]
    assert memory_bytes(throughout(result.readings)) == [1000, 2000, 3000, 4000]


def test_one_unknown_reading_leaves_no_series() -> None:
    told = Reading(memory_bytes=5, mhz=100.0)
    windows = [Around(told, told), Around(told, Reading())]
    assert memory_bytes(after_each(windows)) == []
    assert clock_mhz(windows) == []
    assert calculation_us(windows) == []
    assert calculation_us([Around(told, Reading(calculation_us=90.0))]) == [90.0]


def test_a_target_that_shows_nothing_has_no_figures() -> None:
    clock = FakeClock()
    plan = WindowPlan(1, 3)
    result = measure_windows(FakeTarget(clock), EAGER, plan, clock=clock, gauge=NO_GAUGE)
    assert memory_bytes(after_each(result.readings)) == []
    assert clocks(result.readings, None) is None


class TestEnergy:
    def test_a_window_shorter_than_the_counters_period_is_told(self) -> None:
        found = energy(around(0.0, 5.0, 9.0), [0.09, 0.2], FakeMeter(period_s=0.1))
        assert found.joules is None
        assert found.reason == (
            "a window of 0.09 s is shorter than the 0.1 s between two updates of the counter: "
            "raise measure.budget_s or lower measure.windows"
        )
        assert energy(around(0.0, 5.0, 9.0), [0.1, 0.2], FakeMeter(period_s=0.1)).joules == 9.0

    def test_no_counter_is_told_with_the_devices_reason(self) -> None:
        meter = FakeMeter(source=None, reason="virtual machines have none")
        found = energy(around(None, None), [1.0], meter)
        assert (found.joules, found.reason) == (None, "virtual machines have none")

    def test_a_counter_that_stops_being_readable_gives_no_figure(self) -> None:
        found = energy(around(0.0, 5.0, None), [1.0, 1.0], FakeMeter())
        assert (found.joules, found.reason) == (None, "a reading of the counter is missing")

    def test_a_counter_that_does_not_move_gives_no_figure(self) -> None:
        found = energy(around(7.0, 7.0, 7.0), [1.0, 1.0], FakeMeter())
        assert found.reason == "the counter did not move over 2 s of windows"


class TestRanks:
    def test_counters_of_all_devices_are_added(self) -> None:
        one = Energy(joules=10.0, seconds=2.0, source="a counter")
        other = Energy(joules=12.0, seconds=3.0, source="a counter")
        assert energy_of_all([one, other]) == Energy(joules=22.0, seconds=3.0, source="a counter")

    def test_one_device_without_a_figure_leaves_none(self) -> None:
        one = Energy(joules=10.0, seconds=2.0, source="a counter")
        assert energy_of_all([one, Energy(reason="gone")]) == Energy(reason="gone")

    def test_nobody_who_tells_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="no rank told"):
            energy_of_all([])

    def test_clocks_are_the_extremes_and_every_reason_once(self) -> None:
        one = Clocks(source="nvml", mhz_min=900.0, mhz_max=1800.0, throttled=["hot"])
        other = Clocks(source="nvml", mhz_min=1000.0, mhz_max=1900.0, throttled=["hot", "power"])
        blind = Clocks(source="nvml")
        assert clocks_of_all([blind, one, other]) == Clocks(
            source="nvml", mhz_min=900.0, mhz_max=1900.0, throttled=["hot", "power"]
        )
        assert clocks_of_all([]) is None


class TestClocks:
    def test_a_reason_counts_when_it_was_met_while_a_window_ran(self) -> None:
        before = Reading(mhz=3000.0, throttled={"hot": 4, "power": 2})
        after = Reading(mhz=2000.0, throttled={"hot": 4, "power": 5})
        assert clocks([Around(before, after)], "counters") == Clocks(
            source="counters", mhz_min=2000.0, mhz_max=2000.0, throttled=["power"]
        )

    def test_a_reason_that_was_never_met_before_counts_too(self) -> None:
        windows = [Around(Reading(), Reading(throttled={"hot": 1}))]
        assert clocks(windows, "counters") == Clocks(source="counters", throttled=["hot"])
