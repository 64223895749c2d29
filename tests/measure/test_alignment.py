"""Windows of whole periods hold whole graphs and whole steps, wherever the device cuts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.measure.alignment import Alignment
from tests.measure.fakes import FakeClock, FakeTarget


@pytest.mark.parametrize(
    ("batches", "accumulation", "first_cut", "period", "steps", "executions", "lead_in"),
    [
        (1, 1, 0, 1, 1, 1, 1),
        (1, 2, 0, 2, 1, 2, 2),
        (3, 1, 2, 3, 3, 1, 2),
        (3, 2, 2, 6, 3, 2, 2),
        (4, 1, 3, 4, 4, 1, 3),
        (4, 2, 3, 4, 2, 1, 3),
        (10, 1, 9, 10, 10, 1, 9),
        (10, 2, 9, 10, 5, 1, 9),
        (2, 4, 1, 4, 1, 2, 5),
        (4, 6, 3, 12, 2, 3, 7),
        (4, 1, 0, 4, 4, 1, 4),
    ],
)
def test_the_rhythm_of_a_case(
    batches: int,
    accumulation: int,
    first_cut: int,
    period: int,
    steps: int,
    executions: int,
    lead_in: int,
) -> None:
    alignment = Alignment(batches, accumulation, first_cut)
    assert alignment.period == period
    assert alignment.steps_per_period == steps
    assert alignment.executions_per_period == executions
    assert alignment.lead_in == lead_in


rhythms = st.tuples(st.integers(1, 12), st.integers(1, 8))


@given(rhythms)
def test_the_lead_in_is_the_smallest_window_edge_that_holds_a_step(rhythm: tuple[int, int]) -> None:
    batches, accumulation = rhythm
    alignment = Alignment(batches, accumulation, batches - 1)
    edges = [n for n in range(1, 200) if n % batches == batches - 1 and n >= accumulation]
    assert alignment.lead_in == edges[0]


@given(rhythms, st.integers(1, 4), st.integers(1, 4))
def test_every_window_of_whole_periods_holds_the_predicted_graphs_and_steps(
    rhythm: tuple[int, int], periods: int, windows: int
) -> None:
    batches, accumulation = rhythm
    alignment = Alignment(batches, accumulation, batches - 1)
    target = FakeTarget(FakeClock(), cuts_every=batches, accumulation=accumulation)
    target.advance(alignment.lead_in)
    target.fence()
    assert target.steps >= 1
    for _ in range(windows):
        graphs, steps = len(target.graphs), target.steps
        target.advance(periods * alignment.period)
        target.fence()
        inside = target.graphs[graphs:]
        assert len(inside) == periods * alignment.executions_per_period
        assert all(len(graph) == batches for graph in inside)
        assert target.steps - steps == periods * alignment.steps_per_period


def test_a_window_off_the_edge_would_cut_graphs_short() -> None:
    target = FakeTarget(FakeClock(), cuts_every=4)
    target.advance(4)
    target.fence()
    target.advance(8)
    target.fence()
    assert [len(graph) for graph in target.graphs] == [3, 1, 3, 4, 1]


@pytest.mark.parametrize("arguments", [(0, 1, 0), (1, 0, 0), (4, 1, 4), (4, 1, -1)])
def test_a_rhythm_that_cannot_be_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="micro-batches"):
        Alignment(*arguments)
