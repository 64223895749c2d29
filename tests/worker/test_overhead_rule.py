"""The arithmetic of benchmarks/overhead.py: what its interval covers, and how often it errs."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.median_interval import FEWEST, Median, Verdict, median_interval

LOWER, UPPER, MOST = 0.98, 1.02, 25
RATIOS = st.floats(min_value=0.1, max_value=10)


@pytest.mark.parametrize(
    ("count", "rank"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (17, 5), (20, 6), (25, 8)]
)
def test_the_interval_is_between_the_order_statistics_of_the_sign_test(
    count: int, rank: int
) -> None:
    values = [float(i) for i in range(1, count + 1)]
    found = median_interval(values)
    assert (found.low, found.high) == (rank, count + 1 - rank)


def test_five_values_have_a_median_and_no_interval() -> None:
    assert median_interval([5.0, 1.0, 4.0, 2.0, 3.0]) == Median(3.0, None, None)
    assert FEWEST == 6


def test_no_values_have_no_median() -> None:
    with pytest.raises(ValueError, match="no median"):
        median_interval([])


@given(st.lists(RATIOS, min_size=6, max_size=30))
def test_the_interval_encloses_the_median_and_ignores_the_order(values: list[float]) -> None:
    found = median_interval(values)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= statistics.median(values) <= found.high
    assert median_interval(values[::-1]) == found


@pytest.mark.parametrize("count", [6, 9, 14, 25])
def test_at_a_fixed_number_of_pairs_it_covers_at_least_95_percent(count: int) -> None:
    draws, generator = 2000, random.Random(count)
    covered = 0
    for _ in range(draws):
        found = median_interval([math.exp(generator.gauss(0, 0.3)) for _ in range(count)])
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1.0 <= found.high
    assert covered / draws > 0.94


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.98, 1.02, Verdict.INSIDE),
        (0.99, 1.0, Verdict.INSIDE),
        (0.9, 0.979, Verdict.OUTSIDE),
        (1.021, 1.5, Verdict.OUTSIDE),
        (0.97, 1.0, Verdict.UNDECIDED),
        (0.9, 1.1, Verdict.UNDECIDED),
        (None, None, Verdict.UNDECIDED),
    ],
)
def test_the_verdict_wants_the_whole_interval_on_one_side(
    low: float | None, high: float | None, verdict: Verdict
) -> None:
    assert Median(1.0, low, high).against(LOWER, UPPER) is verdict


def verdicts(true_ratio: float, spread: float, count: int) -> Iterator[Verdict]:
    """Play the sequential rule so often, with pairs that scatter log-normally."""
    generator = random.Random(1)
    for _ in range(count):
        values: list[float] = []
        for _pair in range(MOST):
            values.append(true_ratio * math.exp(generator.gauss(0, spread)))
            verdict = median_interval(values).against(LOWER, UPPER)
            if verdict is not Verdict.UNDECIDED:
                break
        yield verdict


@pytest.mark.parametrize(
    ("true_ratio", "wrong"),
    [(0.97, Verdict.INSIDE), (1.03, Verdict.INSIDE), (1.0, Verdict.OUTSIDE)],
)
def test_looking_after_every_pair_rarely_ends_in_the_wrong_verdict(
    true_ratio: float, wrong: Verdict
) -> None:
    found = list(verdicts(true_ratio, 0.02, 1000))
    assert found.count(wrong) / len(found) < 0.01


def test_a_quiet_machine_decides_within_the_fewest_pairs() -> None:
    assert all(v is Verdict.INSIDE for v in itertools.islice(verdicts(1.0, 0.005, 100), 100))
