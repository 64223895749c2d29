"""Launch values, intervals, Stein's two stages and paired speed-ups: the numbers themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results import comparison
from bench.results.record import Launch
from bench.results.statistics import (
    Interval,
    stein_interval,
    stein_launches,
    summarise,
    t_interval,
    wanted_launches,
)
from bench.scenarios.schema import Measure
from tests.builders import a_launch, launches_of

DRAWS = 2000


def test_throughput_is_all_samples_over_all_time() -> None:
    launch = a_launch(window_s=[[1.0, 2.0, 5.0]], samples_per_window=16)
    assert launch.samples_per_s == pytest.approx(48 / 8)


def test_throughput_is_not_the_mean_of_the_windows_rates() -> None:
    launch = a_launch(window_s=[[1.0, 4.0]], samples_per_window=8)
    assert launch.samples_per_s == pytest.approx(16 / 5)
    assert launch.samples_per_s != pytest.approx((8 / 1 + 8 / 4) / 2)


def test_uneven_ranks_are_as_fast_as_the_slowest_in_each_window() -> None:
    launch = a_launch(window_s=[[1.0, 3.0, 1.0], [2.0, 1.0, 1.5]], samples_per_window=20)
    assert launch.samples_per_s == pytest.approx(60 / (2.0 + 3.0 + 1.5))


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.integers(1, 512))
def test_equal_ranks_are_worth_exactly_one_rank(times: list[float], samples: int) -> None:
    alone = a_launch(window_s=[times], samples_per_window=samples).samples_per_s
    four = a_launch(window_s=[times] * 4, samples_per_window=samples).samples_per_s
    assert four == alone


def test_the_interval_of_known_launches() -> None:
    # logs 2.0, 2.1, 2.3: mean 32/15, sample variance 7/300, t(2, 0.975) = 4.302653
    interval = t_interval([math.exp(2.0), math.exp(2.1), math.exp(2.3)])
    half = 4.302652729911275 * math.sqrt(7 / 300 / 3)
    assert interval.estimate == pytest.approx(math.exp(32 / 15))
    assert interval.low == pytest.approx(math.exp(32 / 15 - half))
    assert interval.high == pytest.approx(math.exp(32 / 15 + half))
    assert interval.degrees_of_freedom == 2


def test_one_launch_has_no_interval() -> None:
    assert t_interval([12.5]) == Interval(pytest.approx(12.5), None, None, None)


def test_a_higher_confidence_takes_the_wider_quantile() -> None:
    # t(1, 0.995) = 63.656741, t(1, 0.975) = 12.706205: two launches, logs 0 and 0.01
    interval = t_interval([1.0, math.exp(0.01)], confidence=0.99)
    assert interval.high is not None
    assert math.log(interval.high) == pytest.approx(0.005 + 63.65674116287399 * 0.005)


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [1.0, -1.0], [math.nan], [math.inf, 1.0]])
def test_an_interval_of_values_that_are_no_throughput_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="positive, finite"):
        t_interval(values)


@given(st.lists(st.floats(0.01, 1e6), min_size=2, max_size=20), st.floats(1e-3, 1e3))
def test_a_change_of_unit_scales_the_interval(values: list[float], unit: float) -> None:
    here, there = t_interval(values), t_interval([v * unit for v in values])
    assert there.estimate == pytest.approx(here.estimate * unit)
    assert here.low is not None
    assert there.low is not None
    assert here.low <= here.estimate * (1 + 1e-12)
    assert there.low / there.estimate == pytest.approx(here.low / here.estimate, rel=1e-6, abs=0)


class TestStein:
    # Pilot logs -s, 0, s have the standard deviation s; t(2, 0.975) = 4.302653.
    PILOT = tuple(math.exp(x) for x in (-0.01, 0.0, 0.01))

    def test_the_pilot_tells_how_many_launches_the_target_needs(self) -> None:
        # (4.302653 * 0.01 / ln 1.02)^2 = 4.72
        assert stein_launches(self.PILOT, target_pct=2.0, cap=100) == 5
        # (4.302653 * 0.01 / ln 1.01)^2 = 18.70
        assert stein_launches(self.PILOT, target_pct=1.0, cap=100) == 19

    def test_a_quiet_pilot_is_enough(self) -> None:
        assert stein_launches(self.PILOT, target_pct=10.0, cap=100) == 3
        assert stein_launches([5.0, 5.0, 5.0], target_pct=0.1, cap=100) == 3

    def test_the_cap_holds(self) -> None:
        assert stein_launches(self.PILOT, target_pct=0.1, cap=30) == 30

    def test_a_cap_below_the_pilot_takes_nothing_back(self) -> None:
        assert stein_launches(self.PILOT, target_pct=0.1, cap=2) == 3

    def test_one_launch_is_no_pilot(self) -> None:
        with pytest.raises(ValueError, match="two launches"):
            stein_launches([5.0], target_pct=1.0, cap=30)

    def test_the_interval_keeps_the_pilots_variance_and_freedom(self) -> None:
        values = [*self.PILOT, math.exp(0.02), math.exp(0.03)]
        interval = stein_interval(values, pilot=3)
        half = 4.302652729911275 * 0.01 / math.sqrt(5)
        assert interval.estimate == pytest.approx(math.exp(0.01))
        assert interval.low == pytest.approx(math.exp(0.01 - half))
        assert interval.high == pytest.approx(math.exp(0.01 + half))
        assert interval.degrees_of_freedom == 2

    def test_a_run_cut_short_in_its_pilot_uses_what_it_has(self) -> None:
        assert stein_interval([3.0, 4.0], pilot=3) == t_interval([3.0, 4.0])


class TestSummary:
    def test_of_a_fixed_number_of_launches(self) -> None:
        launches = launches_of(10.0, 10.5, 11.0)
        statistics = summarise(launches, Measure())
        expected = t_interval([10.0, 10.5, 11.0])
        assert statistics.samples_per_s == pytest.approx(expected.estimate)
        assert statistics.samples_per_s_low == pytest.approx(expected.low)
        assert statistics.samples_per_s_high == pytest.approx(expected.high)
        assert (statistics.method, statistics.launches) == ("fixed", 3)
        assert statistics.precision_reached is None

    def test_a_step_takes_all_time_over_all_steps(self) -> None:
        launches = [
            a_launch(index=0, window_s=[[1.0, 2.0], [1.5, 1.0]], steps_per_window=5),
            a_launch(index=1, window_s=[[4.0], [3.0]], steps_per_window=10),
        ]
        # slowest ranks: 1.5 + 2.0 + 4.0 seconds over 5 + 5 + 10 steps
        assert summarise(launches, Measure()).step_ms == pytest.approx(375.0)

    def test_of_a_precision_target_that_was_met(self) -> None:
        measure = Measure(launches=3, precision_target=2.0)
        values = TestStein.PILOT
        enough = launches_of(*values, 1.0, 1.0)
        statistics = summarise(enough, measure)
        assert (statistics.method, statistics.degrees_of_freedom) == ("stein", 2)
        assert statistics.precision_reached is True
        assert summarise(enough[:4], measure).precision_reached is False

    def test_one_launch_reaches_no_precision(self) -> None:
        statistics = summarise(launches_of(10.0), Measure(precision_target=2.0))
        assert statistics.samples_per_s_low is None
        assert statistics.precision_reached is False

    def test_of_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="without a launch"):
            summarise([], Measure())


class TestPairsWithinRounds:
    """Of speed-ups and comparisons: beside one sequential run after the other."""

    def test_a_planted_drift_cancels_within_rounds_and_fools_a_sequential_run(self) -> None:
        # The machine loses 3 % from each launch slot to the next; the truth is 1.10.
        speed = [0.97**slot for slot in range(8)]
        base = [speed[slot] for slot in (0, 3, 4, 7)]
        other = [1.1 * speed[slot] for slot in (1, 2, 5, 6)]
        paired = comparison.paired([b / a for a, b in zip(base, other, strict=True)])
        assert paired.estimate == pytest.approx(1.1)
        assert paired.low is not None
        assert paired.high is not None
        assert paired.low < 1.1 < paired.high
        assert paired.low > 1.0

        first, second = t_interval(speed[:4]), t_interval([1.1 * s for s in speed[4:]])
        assert second.estimate / first.estimate == pytest.approx(1.1 * 0.97**4)
        assert second.estimate / first.estimate < 1.0

    def test_under_drift_the_paired_interval_covers_and_the_sequential_one_does_not(self) -> None:
        random = np.random.default_rng(20261120)
        truth, rounds = 1.1, 5
        paired_hits = sequential_hits = 0
        for _ in range(DRAWS):
            drift = np.exp(np.cumsum(random.normal(0, 0.01, 2 * rounds)))
            noise = np.exp(random.normal(0, 0.005, 2 * rounds))
            machine = drift * noise
            slots = [
                (2 * r, 2 * r + 1) if r % 2 == 0 else (2 * r + 1, 2 * r) for r in range(rounds)
            ]
            paired = comparison.paired([truth * machine[b] / machine[a] for a, b in slots])
            paired_hits += _within(paired.low, paired.high, truth)
            # The same launches, one case after the other, compared as if the machine stood still.
            sequential = t_interval(truth * machine[rounds:] / machine[:rounds])
            sequential_hits += _within(sequential.low, sequential.high, truth)
        assert 0.93 <= paired_hits / DRAWS <= 0.97
        assert sequential_hits / DRAWS < 0.75


class TestCoverage:
    """The 95 % interval holds the truth in 93 to 97 % of 2,000 simulated runs."""

    TRUTH = 100.0

    @pytest.mark.parametrize("launches", [3, 5, 10])
    def test_of_a_fixed_number_of_launches(self, launches: int) -> None:
        random = np.random.default_rng(launches)
        measure = Measure(launches=launches)
        hits = 0
        for _ in range(DRAWS):
            values = self.TRUTH * np.exp(random.normal(0, 0.02, launches))
            statistics = summarise(launches_of(*values), measure)
            hits += _within(statistics.samples_per_s_low, statistics.samples_per_s_high, self.TRUTH)
        assert 0.93 <= hits / DRAWS <= 0.97

    @pytest.mark.parametrize(("target_pct", "cap"), [(2.0, 1000), (1.0, 1000), (1.0, 30)])
    def test_of_a_precision_target(self, target_pct: float, cap: int) -> None:
        random = np.random.default_rng(7)
        measure = Measure(launches=4, precision_target=target_pct, max_launches=cap)
        hits = tight = 0
        for _ in range(DRAWS):
            launches: list[Launch] = []
            # As rounds do: the answer is asked for after every launch.
            while len(launches) < wanted_launches(launches, measure):
                launches += launches_of(self.TRUTH * math.exp(random.normal(0, 0.01)))
            figures = summarise(launches, measure)
            low, high = figures.samples_per_s_low, figures.samples_per_s_high
            hits += _within(low, high, self.TRUTH)
            assert high is not None
            tight += high / figures.samples_per_s - 1 <= target_pct / 100 * (1 + 1e-9)
            assert len(launches) <= cap
        assert 0.93 <= hits / DRAWS <= 0.97
        assert tight == DRAWS if cap > 30 else tight < DRAWS


def _within(low: float | None, high: float | None, truth: float) -> bool:
    assert low is not None
    assert high is not None
    return low <= truth <= high
