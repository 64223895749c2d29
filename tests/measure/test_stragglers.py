"""The slowest rank: by its own time where that is known, else by windows that hide most of it."""

from __future__ import annotations

import pytest

from bench.measure.stragglers import straggler


def test_the_slowest_rank_is_measured_against_the_mean_of_all() -> None:
    found = straggler([[1.0, 1.0]] * 4, [1.0, 1.0, 1.4, 0.6])
    assert found is not None
    assert (found.rank, found.source) == (2, "steps without exchange")
    assert found.share == pytest.approx(0.4)


def test_equal_ranks_have_no_straggler_to_speak_of() -> None:
    found = straggler([[1.0], [1.0]], [2.0, 2.0])
    assert found is not None
    assert found.share == 0.0


def test_windows_speak_where_a_rank_has_no_time_of_its_own() -> None:
    found = straggler([[1.0, 1.0], [1.0, 1.2]], [2.0, None])
    assert found is not None
    assert (found.rank, found.source) == (1, "windows")
    assert found.share == pytest.approx(2.2 / 2.1 - 1)


def test_one_rank_has_none() -> None:
    assert straggler([[1.0, 2.0]], [None]) is None
