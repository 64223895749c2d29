"""A loader that is a little too slow, behind a queue that hides it: every time here is exact."""

from __future__ import annotations

import statistics

import pytest

from bench.measure.alignment import Alignment
from bench.measure.diagnose import twin
from bench.measure.warm_up import first_step, warm_up
from bench.measure.windows import WindowPlan, measure_windows
from tests.measure.fakes import FakeClock, FakeTarget, QueuedTarget, measure

EAGER = Alignment()
DEPTH = 33
STEP_S, LOAD_S = 0.2, 0.26


def behind_a_queue(clock: FakeClock, load_s: float = LOAD_S) -> QueuedTarget:
    return QueuedTarget(clock, step_s=STEP_S, load_s=load_s, depth=DEPTH, compile_s=20.0)


def window_s(prefetched: int, load_s: float = LOAD_S) -> float:
    """Return the mean time of a step in three windows of 16 that follow the usual warm-up."""
    clock = FakeClock()
    target = behind_a_queue(clock, load_s)
    first_step(target, EAGER, clock=clock)
    warm_up(target, EAGER, measure(warmup_steps=15), prefetched, clock=clock)
    plan = WindowPlan(periods_per_window=16, windows=3)
    result = measure_windows(target, EAGER, plan, clock=clock, prefetched=prefetched)
    return statistics.fmean(result.window_s) / 16


def test_windows_do_not_live_on_what_was_loaded_while_a_graph_compiled() -> None:
    assert window_s(DEPTH) == pytest.approx(LOAD_S)


def test_nor_would_they_have_been_slow_had_nobody_emptied_the_queue() -> None:
    assert window_s(0) == pytest.approx(STEP_S)


def test_a_loader_that_keeps_up_is_not_seen() -> None:
    assert window_s(DEPTH, load_s=0.19) == pytest.approx(STEP_S)


def test_a_graph_of_several_batches_is_emptied_in_whole_periods() -> None:
    clock = FakeClock()
    rhythm = Alignment(batches_per_execution=4, gradient_accumulation=1, first_cut=3)
    target = FakeTarget(clock, cuts_every=4)
    first_step(target, rhythm, clock=clock)
    warm_up(target, rhythm, measure(), 9, clock=clock)
    assert clock.log.count("discard 12") == 1
    assert [len(graph) for graph in target.graphs[1:]] == [4] * (len(target.graphs) - 1)


def test_what_a_voided_window_let_in_is_thrown_away_too() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, compile_s={20: 1.0})
    plan = WindowPlan(periods_per_window=8, windows=3)
    result = measure_windows(target, EAGER, plan, clock=clock, prefetched=5)
    assert result.voided == 1
    assert clock.log.count("discard 5") == 1


class Switched(QueuedTarget):
    """The same step with its loader, or over batches that lie on the device."""

    loaded = True

    def advance(self, micro_batches: int) -> None:
        if self.loaded:
            super().advance(micro_batches)
        else:
            self.clock.spend(micro_batches * STEP_S)


def gaps(load_s: float, prefetched: int = DEPTH) -> list[float]:
    clock = FakeClock()
    target = Switched(clock, step_s=STEP_S, load_s=load_s, depth=DEPTH)
    target.advance(100)

    def switch(to_loader: bool) -> None:
        target.loaded = to_loader

    found = twin(target, EAGER, 34, switch, prefetched, budget_s=1e9, clock=clock)
    assert found is not None
    assert found.block_s == pytest.approx([12 * STEP_S] * 3)
    return found.gaps


def test_the_twin_sees_a_loader_that_is_slower_by_a_third() -> None:
    assert gaps(LOAD_S) == pytest.approx([0.3] * 3)


def test_the_twin_sees_a_loader_that_takes_twice_as_long() -> None:
    assert gaps(2 * STEP_S) == pytest.approx([1.0] * 3)


def test_without_emptying_the_queue_it_would_see_nothing() -> None:
    assert max(gaps(LOAD_S, prefetched=0)[1:]) < 0.1


def test_a_loader_that_keeps_up_costs_nothing() -> None:
    assert gaps(0.15) == pytest.approx([0.0] * 3)
