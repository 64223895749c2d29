"""The arithmetic of comparisons: against scipy, by hand, and how often its verdicts are wrong."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from bench.results.comparison import (
    FEWEST_PAIRS,
    TRIM_FROM,
    ComparisonVerdict,
    Decision,
    Pair,
    Suggestion,
    decide,
    paired,
    suggest,
    welch,
)

SAME, FASTER, SLOWER, AMBIGUOUS, INVALID = ComparisonVerdict
VALUES = st.floats(min_value=1.0, max_value=1e4)
RATIOS = st.lists(st.floats(min_value=0.5, max_value=2.0), min_size=2, max_size=40)


def pairs(*ratios: float, disturbed: int = 0) -> list[Pair]:
    """Return pairs with these ratios; the first so many were disturbed."""
    return [Pair(100.0, 100.0 * ratio, place < disturbed) for place, ratio in enumerate(ratios)]


def around(centre: float, spread: float, count: int) -> list[Pair]:
    """Return pairs that lie evenly within `spread` (on logarithms) around a ratio."""
    steps = [2 * place / (count - 1) - 1 for place in range(count)]
    return pairs(*(centre * math.exp(spread * step) for step in steps))


class TestWelch:
    A = (101.0, 99.0, 100.5, 98.0)
    B = (96.0, 95.0, 97.5)

    def test_it_is_scipys_test_on_the_logarithms(self) -> None:
        found = welch(self.A, self.B)
        theirs = stats.ttest_ind(np.log(self.B), np.log(self.A), equal_var=False)
        interval = theirs.confidence_interval(0.95)
        assert found.method == "Welch"
        assert found.estimate == pytest.approx(
            math.exp(np.log(self.B).mean() - np.log(self.A).mean())
        )
        assert found.p == pytest.approx(theirs.pvalue, rel=1e-9)
        assert found.degrees_of_freedom == pytest.approx(theirs.df, rel=1e-12)
        assert found.low == pytest.approx(math.exp(interval.low), rel=1e-12)
        assert found.high == pytest.approx(math.exp(interval.high), rel=1e-12)

    @given(st.lists(VALUES, min_size=2, max_size=12), st.lists(VALUES, min_size=2, max_size=12))
    def test_the_other_way_round_it_is_the_reciprocal(self, a: list[float], b: list[float]) -> None:
        there, back = welch(a, b), welch(b, a)
        assert there.low is not None
        assert back.high is not None
        assert there.estimate * back.estimate == pytest.approx(1.0)
        assert there.low * back.high == pytest.approx(1.0)
        assert there.p == back.p

    def test_one_launch_has_no_interval(self) -> None:
        found = welch([100.0], [90.0, 91.0, 92.0])
        assert (found.low, found.high, found.p, found.degrees_of_freedom) == (None,) * 4
        assert suggest(found) is Suggestion.NO_INTERVAL

    def test_values_without_scatter_have_an_interval_of_no_width(self) -> None:
        same, other = welch([100.0] * 3, [100.0] * 3), welch([100.0] * 3, [90.0] * 3)
        assert (same.low, same.estimate, same.high, same.p) == (1.0, 1.0, 1.0, 1.0)
        assert other.low == other.high == other.estimate == pytest.approx(0.9)
        assert other.p == 0.0

    @pytest.mark.parametrize("values", [[], [0.0, 1.0], [-1.0, 1.0], [math.nan, 1.0], [math.inf]])
    def test_values_that_are_no_throughputs_are_refused(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match="positive, finite"):
            welch(values, [1.0, 2.0])
        with pytest.raises(ValueError, match="positive, finite"):
            paired(values)

    @pytest.mark.parametrize(
        ("b", "suggestion"),
        [
            ((90.0, 91.0, 92.0), Suggestion.LOOKS_SLOWER),
            ((110.0, 111.0, 112.0), Suggestion.LOOKS_FASTER),
            ((99.0, 101.0, 100.0), Suggestion.CANNOT_TELL),  # may be 2.5 % either way
            ((80.0, 100.0, 90.0), Suggestion.CANNOT_TELL),  # large, and uncertain
            ((98.0, 98.1, 98.2), Suggestion.CANNOT_TELL),  # about as large as the threshold
            ((99.5, 100.0, 100.5), Suggestion.LOOKS_SAME),
            ((98.6, 98.7, 98.8), Suggestion.LOOKS_SAME),  # certain, and small
        ],
    )
    def test_it_suggests_what_is_both_certain_and_large(
        self, b: Sequence[float], suggestion: Suggestion
    ) -> None:
        assert suggest(welch((99.9, 100.0, 100.1), b)) is suggestion


class TestPaired:
    def test_below_seven_pairs_it_is_scipys_paired_t(self) -> None:
        a, b = (100.0, 103.0, 98.0, 90.0, 101.0), (97.0, 101.0, 94.0, 88.0, 99.5)
        found = paired([y / x for x, y in zip(a, b, strict=True)])
        theirs = stats.ttest_rel(np.log(b), np.log(a)).confidence_interval(0.95)
        assert (found.method, found.degrees_of_freedom) == ("t", 4)
        assert found.low == pytest.approx(math.exp(theirs.low), rel=1e-12)
        assert found.high == pytest.approx(math.exp(theirs.high), rel=1e-12)

    @pytest.mark.parametrize("count", [7, 8, 10, 14, 15, 20, 33])
    def test_from_seven_pairs_on_it_is_yuens(self, count: int) -> None:
        """Yuen's test of x against -x has twice the mean, and sqrt(2) times its standard error."""
        logs = np.random.default_rng(count).normal(0.01, 0.02, count)
        found = paired(np.exp(logs).tolist())
        theirs = stats.ttest_ind(logs, -logs, equal_var=False, trim=0.2)
        trimmed = stats.trim_mean(logs, 0.2)
        kept = count - 2 * (count // 5)
        error = 2 * trimmed / theirs.statistic / math.sqrt(2)
        assert (found.method, found.degrees_of_freedom) == ("trimmed t", kept - 1)
        assert math.log(found.estimate) == pytest.approx(trimmed, rel=1e-9)
        assert found.standard_error == pytest.approx(error, rel=1e-9)
        assert found.high is not None
        half = float(stats.t.ppf(0.98, kept - 1)) * error
        assert math.log(found.high / found.estimate) == pytest.approx(half, rel=1e-9)

    def test_seven_pairs_by_hand(self) -> None:
        """Logarithms 0, 1, ..., 5 and 100 hundredths: one is cut at each end, five are averaged.

        Winsorised: 1 1 2 3 4 5 5 hundredths, mean 3, SSD 4 + 4 + 1 + 0 + 1 + 4 + 4 = 18; the
        standard error is sqrt(18 / (5 x 4)) hundredths, and t(0.98, 4) = 2.99853.
        """
        found = paired([math.exp(x / 100) for x in (0, 1, 2, 3, 4, 5, 100)])
        assert math.log(found.estimate) == pytest.approx(0.03)
        assert found.standard_error == pytest.approx(math.sqrt(18 / 20) / 100)
        assert found.high is not None
        assert math.log(found.high) == pytest.approx(0.03 + 0.0299853 * math.sqrt(0.9), abs=1e-7)

    def test_one_hiccup_among_ten_pairs_changes_little(self) -> None:
        quiet = around(1.0, 0.01, 10)
        disturbed = [*quiet[:-1], *pairs(0.5)]
        before, after = decide(quiet), decide(disturbed)
        assert before.verdict is after.verdict is SAME
        assert after.ratio is not None
        assert after.ratio.estimate == pytest.approx(1.0, abs=0.003)

    @given(RATIOS)
    def test_order_does_not_matter_and_swapping_sides_inverts_it(self, ratios: list[float]) -> None:
        found = paired(ratios)
        assert paired(ratios[::-1]) == found
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.estimate <= found.high
        back = paired([1 / ratio for ratio in ratios])
        assert back.estimate == pytest.approx(1 / found.estimate)
        assert back.low == pytest.approx(1 / found.high)

    def test_one_pair_has_no_interval(self) -> None:
        found = paired([0.9])
        assert (found.estimate, found.low, found.high) == (pytest.approx(0.9), None, None)


class TestDecide:
    """Each rule, at its border."""

    @pytest.mark.parametrize(
        ("centre", "spread", "verdict"),
        [
            (1.0, 0.005, SAME),
            (1.01, 0.005, SAME),
            (0.99, 0.005, SAME),
            (1.0, 0.05, AMBIGUOUS),
            (0.95, 0.01, SLOWER),
            (1.05, 0.01, FASTER),
            (0.97, 0.10, AMBIGUOUS),  # large, and the interval holds no change
            (0.985, 0.012, AMBIGUOUS),  # a change, and the interval reaches beyond the threshold
            (0.979, 0.002, SLOWER),  # the estimate is just beyond 1 / 1.02 = 0.9804
            (0.983, 0.0005, SAME),  # certain, and just within
            (1.021, 0.002, FASTER),
            (1.018, 0.0005, SAME),
        ],
    )
    @pytest.mark.parametrize("count", [5, 10])
    def test_the_verdict_follows_from_interval_and_threshold(
        self, centre: float, spread: float, verdict: ComparisonVerdict, count: int
    ) -> None:
        assert decide(around(centre, spread, count)).verdict is verdict

    @given(RATIOS.filter(lambda found: len(found) >= FEWEST_PAIRS), st.floats(0.1, 20))
    def test_every_verdict_can_be_read_off_what_is_printed(
        self, ratios: list[float], threshold: float
    ) -> None:
        found = decide(pairs(*ratios), threshold_pct=threshold)
        ratio, bound = found.ratio, 1 + threshold / 100
        assert ratio is not None
        assert ratio.low is not None
        assert ratio.high is not None
        within = 1 / bound <= ratio.low and ratio.high <= bound
        assert (found.verdict is SAME) == within
        assert (found.verdict is SLOWER) == (ratio.high < 1 and ratio.estimate < 1 / bound)
        assert (found.verdict is FASTER) == (ratio.low > 1 and ratio.estimate > bound)

    @given(RATIOS)
    def test_swapping_the_sides_swaps_the_verdict(self, ratios: list[float]) -> None:
        mirrored = {FASTER: SLOWER, SLOWER: FASTER}
        there = decide(pairs(*ratios))
        back = decide([Pair(pair.b, pair.a) for pair in pairs(*ratios)])
        edges = (there.ratio.low, there.ratio.estimate, there.ratio.high) if there.ratio else ()
        # On a border rounding decides, and both are right.
        borders = (1.0, 1.02, 1 / 1.02)
        assume(not any(math.isclose(x or 0, y) for x in edges for y in borders))
        assert back.verdict is mirrored.get(there.verdict, there.verdict)

    def test_the_threshold_is_the_users(self) -> None:
        slightly = around(0.97, 0.005, 8)
        assert decide(slightly, threshold_pct=2).verdict is SLOWER
        assert decide(slightly, threshold_pct=5).verdict is SAME
        with pytest.raises(ValueError, match="must be positive"):
            decide(slightly, threshold_pct=0)

    @pytest.mark.parametrize("count", [0, 1, FEWEST_PAIRS - 1])
    def test_too_few_pairs_are_invalid(self, count: int) -> None:
        found = decide(pairs(*[0.5] * count))
        assert found.verdict is INVALID
        assert found.reason == f"{count} of at least 3 pairs were measured"

    def test_an_obstacle_outweighs_the_clearest_figures_and_still_shows_them(self) -> None:
        found = decide(around(0.5, 0.01, 10), obstacle="B is suspect: fence_waits")
        assert (found.verdict, found.reason) == (INVALID, "B is suspect: fence_waits")
        assert found.ratio is not None
        assert found.ratio.estimate == pytest.approx(0.5)

    def test_half_of_the_pairs_may_be_disturbed_and_no_more(self) -> None:
        ratios = [0.95 + 0.001 * place for place in range(10)]
        five, six = (decide(pairs(*ratios, disturbed=count)) for count in (5, 6))
        assert (five.verdict, five.disturbed) == (SLOWER, 5)
        assert (six.verdict, six.disturbed) == (INVALID, 6)
        assert "something else used the machine in 6 of 10 pairs" in six.reason

    def test_the_two_kinds_of_doubt_have_different_words(self) -> None:
        assert "scatter too much" in decide(around(1.0, 0.05, 8)).reason
        assert "there is a change" in decide(around(0.985, 0.012, 8)).reason

    def test_the_smallest_change_it_could_have_seen_by_hand(self) -> None:
        """Logarithms -1, 0, 1 %: e = 1 / sqrt(3) %, t(0.975, 2) = 4.30265, t(0.8, 2) = 1.06066.

        (4.30265 + 1.06066) / sqrt(3) = 3.09651 % on logarithms.
        """
        found = decide(pairs(*(math.exp(x / 100) for x in (-1, 0, 1))))
        assert found.detectable_pct == pytest.approx(100 * math.expm1(0.0309651), abs=1e-4)

    def test_it_could_not_have_called_a_change_within_the_threshold_slower(self) -> None:
        found = decide(pairs(1.0, 1.0, 1.0, 1.0), threshold_pct=2)
        assert found.detectable_pct == pytest.approx(2.0)

    def test_one_pair_tells_nothing_about_what_could_have_been_seen(self) -> None:
        assert decide(pairs(1.0)).detectable_pct is None


Scatter = Callable[[random.Random], float]


def normal(source: random.Random) -> float:
    return source.gauss(0, 1)


def heavy(source: random.Random) -> float:
    """Student's t with three degrees of freedom."""
    return source.gauss(0, 1) / math.sqrt(sum(source.gauss(0, 1) ** 2 for _ in range(3)) / 3)


def spiked(source: random.Random) -> float:
    """One in ten scatters five times as much."""
    return source.gauss(0, 5 if source.random() < 0.1 else 1)


def verdicts(
    count: int, *, ratio: float, spread: float, scatter: Scatter = normal, draws: int = 3000
) -> Counter[ComparisonVerdict]:
    """Return the verdicts over so many simulated runs."""
    source = random.Random(f"{count} {ratio} {spread}")

    def one() -> Decision:
        return decide(pairs(*(ratio * math.exp(spread * scatter(source)) for _ in range(count))))

    return Counter(one().verdict for _ in range(draws))


class TestErrorRates:
    """3,000 draws: the standard error of a rate of 5 % is 0.4 %."""

    @pytest.mark.parametrize("scatter", [normal, heavy, spiked])
    @pytest.mark.parametrize("count", [3, 5, 6, TRIM_FROM, 8, 10, 12, 15, 20])
    def test_equal_sides_rarely_differ_even_where_scatter_dwarfs_the_threshold(
        self, count: int, scatter: Scatter
    ) -> None:
        found = verdicts(count, ratio=1.0, spread=0.2, scatter=scatter)
        assert (found[FASTER] + found[SLOWER]) / found.total() <= 0.058
        assert found[SAME] / found.total() <= 0.01

    @pytest.mark.parametrize("count", [7, 10, 14, 20, 30])
    def test_the_trimmed_interval_covers_what_it_promises(self, count: int) -> None:
        source = np.random.default_rng(count)
        covered = 0
        for logs in source.normal(0, 0.1, (4000, count)):
            found = paired(np.exp(logs).tolist())
            assert found.low is not None
            assert found.high is not None
            covered += found.low <= 1 <= found.high
        assert 0.945 <= covered / 4000 <= 0.968

    @pytest.mark.parametrize("count", [5, 10])
    def test_where_pairs_agree_equal_sides_are_the_same(self, count: int) -> None:
        found = verdicts(count, ratio=1.0, spread=0.01)
        assert (found[FASTER] + found[SLOWER]) / found.total() <= 0.005
        assert found[SAME] / found.total() >= (0.95 if count == 10 else 0.7)

    @pytest.mark.parametrize("spread", [0.005, 0.02, 0.05])
    def test_a_change_of_the_threshold_is_rarely_called_the_same(self, spread: float) -> None:
        found = verdicts(10, ratio=1 / 1.02, spread=spread)
        assert found[SAME] / found.total() <= 0.03

    def test_five_per_cent_more_work_is_found_by_ten_pairs(self) -> None:
        found = verdicts(10, ratio=1 / 1.05, spread=0.03)
        assert found[SLOWER] / found.total() >= 0.9
        assert found[FASTER] == 0

    @pytest.mark.parametrize("count", [5, 10, 20])
    @pytest.mark.parametrize("spread", [0.005, 0.03])
    def test_the_smallest_change_it_says_it_could_have_seen_is_seen_in_four_of_five(
        self, count: int, spread: float
    ) -> None:
        """The mean of what 500 runs say of themselves, planted in 3,000 others."""
        source = random.Random(count)
        claims = []
        for _ in range(500):
            found = decide(pairs(*(math.exp(source.gauss(0, spread)) for _ in range(count))))
            assert found.detectable_pct is not None
            claims.append(found.detectable_pct)
        change = 1 + sum(claims) / len(claims) / 100
        seen = verdicts(count, ratio=1 / change, spread=spread)
        # Five pairs see their own scatter as 6 % too small on average.
        assert 0.7 <= seen[SLOWER] / seen.total() <= 0.9
