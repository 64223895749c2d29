"""MSER cuts where the rest is known best, and says so when there is no such place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results.truncation import mser


def test_a_slow_start_is_dropped_whole() -> None:
    assert mser([10.0] * 5 + [1.0] * 20) == 5
    assert mser([10.0] * 7 + [1.0] * 33) == 10


def test_the_cut_has_the_least_squared_error_of_the_mean() -> None:
    # By hand, per cut: 27/64, 0 | 27/64, 2/3, 9/8 | 9/16, 2/3, 0 in the last half.
    assert mser([4.0, 1.0, 1.0, 1.0], batch=1) == 1
    assert mser([1.0, 1.0, 4.0, 1.0], batch=1) == 0
    assert mser([4.0, 4.0, 1.0, 1.0], batch=1) is None


def test_a_constant_series_loses_nothing_even_to_rounding() -> None:
    assert mser([0.1] * 47) == 0


def test_a_series_that_still_drifts_is_rejected() -> None:
    assert mser([1.0 + 0.01 * i for i in range(40)]) is None


def test_too_few_batches_say_nothing() -> None:
    assert mser([9.0] + [1.0] * 18) == 0
    assert mser([]) == 0


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch=0"):
        mser([1.0], batch=0)


@given(st.lists(st.floats(0.5, 2.0), max_size=80), st.integers(1, 6))
def test_a_cut_is_whole_batches_of_the_first_half_and_free_of_the_unit(
    values: list[float], batch: int
) -> None:
    cut = mser(values, batch)
    assert cut is None or (cut % batch == 0 and 2 * cut <= len(values))
    assert mser([1024 * v for v in values], batch) == cut
