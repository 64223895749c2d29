"""The naive clock beside the true one: by how much it misleads, and when it does."""

from __future__ import annotations

import pytest

from bench.results.naive import naive_reading
from bench.results.record import Diagnostics, Launch
from tests.builders import a_launch, launches_of


def read_at(naive: float | None, true: float = 10.0) -> list[Launch]:
    """Return two launches, the first of which was read with a naive clock too."""
    launch = a_launch(window_s=[[1.0, 2.0], [3.0, 1.0]], samples_per_window=40, steps_per_window=5)
    found = Diagnostics(
        naive_samples_per_s=naive, naive_fenced_samples_per_s=true, naive_step_ms_median=0.5
    )
    return [launch.model_copy(update={"diagnostics": found}), a_launch()]


def test_it_is_compared_with_the_same_steps_and_not_with_the_windows() -> None:
    reading = naive_reading(read_at(25.0))
    assert reading is not None
    assert reading.samples_per_s == 25.0
    assert reading.true_samples_per_s == 10.0
    assert reading.ratio == pytest.approx(2.5)
    assert reading.step_ms_median == 0.5
    # 8 samples a step.
    assert reading.true_step_ms == pytest.approx(800.0)


@pytest.mark.parametrize(
    ("naive", "misleads"), [(10.0, False), (10.4, False), (10.6, True), (1027.0, True)]
)
def test_it_misleads_when_it_reads_a_few_per_cent_too_much(naive: float, misleads: bool) -> None:
    reading = naive_reading(read_at(naive))
    assert reading is not None
    assert reading.misleads is misleads


def test_where_no_pass_read_it_there_is_none() -> None:
    assert naive_reading(launches_of(10.0)) is None
    assert naive_reading(read_at(None)) is None
    assert naive_reading([]) is None
