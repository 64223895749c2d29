"""Lines and splits, by hand and by properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results.series import best_split, grouped, line, split

SERIES = st.lists(st.floats(0.5, 2.0), min_size=6, max_size=40)


def test_a_line_has_the_slope_and_the_error_of_the_textbook() -> None:
    # Mean 3, spread of 0..3 around 1.5: 5; residuals -0.1, 0.7, -1.1, 0.5 around slope 1.2 - 0.
    found = line([1.0, 3.0, 2.4, 5.2])
    assert found.slope == pytest.approx(1.2)
    residuals = [1.0 - 1.1, 3.0 - 2.3, 2.4 - 3.5, 5.2 - 4.7]
    rest = sum(r**2 for r in residuals)
    assert found.slope_error == pytest.approx(math.sqrt(rest / 2 / 5))
    assert found.explained == pytest.approx(1 - rest / (rest + 1.2**2 * 5))


def test_a_perfect_line_explains_all_and_has_no_error() -> None:
    found = line([1.0, 2.0, 3.0])
    assert found == (1.0, 0.0, 1.0)


def test_a_constant_series_has_no_pattern_even_by_rounding() -> None:
    for values in ([0.1] * 12, [0.1 + 0.2] * 6 + [0.3] * 6):
        assert line(values).explained == 0.0
        assert best_split(values, 3).explained == 0.0


def test_two_values_have_a_line_of_unknown_error_and_one_has_none() -> None:
    assert line([1.0, 3.0]).slope == 2.0
    assert line([1.0, 3.0]).slope_error == math.inf
    with pytest.raises(ValueError, match="1 values have no slope"):
        line([1.0])


def test_a_step_is_found_where_it_is() -> None:
    found = best_split([2.0] * 4 + [2.1] * 5, 3)
    assert (found.at, found.before, found.after) == (4, 2.0, 2.1)
    assert found.change == pytest.approx(0.05)
    assert found.explained == pytest.approx(1.0)


def test_the_best_split_leaves_the_least_scatter() -> None:
    # Cut at 2: parts 1, 1 and 1, 4, 4: scatter 0 + 6. Cut at 3: 1, 1, 1 and 4, 4: none.
    assert split([1.0, 1.0, 1.0, 4.0, 4.0], 2).explained == pytest.approx(1 - 6 / 10.8)
    assert best_split([1.0, 1.0, 1.0, 4.0, 4.0], 2).at == 3


def test_a_part_is_never_shorter_than_asked() -> None:
    assert best_split([1.0] * 7 + [9.0], 3).at == 5
    with pytest.raises(ValueError, match="5 values have no two parts of 3"):
        best_split([1.0] * 5, 3)
    with pytest.raises(ValueError, match="cannot be cut before value 0"):
        split([1.0, 2.0], 0)


def test_groups_are_means_of_neighbours_and_the_oldest_may_be_left_out() -> None:
    assert grouped([1.0, 2.0, 3.0], 3) == [1.0, 2.0, 3.0]
    assert grouped([9.0, 1.0, 3.0, 5.0, 7.0], 3) == [2.0, 6.0]
    assert len(grouped([1.0] * 100, 19)) == 16


@given(SERIES)
def test_what_is_explained_is_a_share_and_free_of_the_unit(values: list[float]) -> None:
    for found, scaled in (
        (line(values).explained, line([1024 * v for v in values]).explained),
        (best_split(values, 3).explained, best_split([1024 * v for v in values], 3).explained),
    ):
        assert 0 <= found <= 1 + 1e-12
        assert scaled == pytest.approx(found, abs=1e-9)


@given(SERIES)
def test_backwards_the_line_falls_as_much_and_the_split_is_as_good(values: list[float]) -> None:
    assert line(values[::-1]).slope == pytest.approx(-line(values).slope, abs=1e-12)
    forwards, backwards = best_split(values, 3), best_split(values[::-1], 3)
    assert backwards.explained == pytest.approx(forwards.explained, abs=1e-9)
