"""The share of a step that is exchange, by a clock whose every second is known."""

from __future__ import annotations

import pytest

from bench.measure.alignment import Alignment
from bench.measure.exchange import unexchanged
from tests.measure.fakes import TICK, FakeClock, FakePeers, FakeTarget

EAGER = Alignment()


class Exchanging(FakeTarget):
    """Each micro-batch takes a tick, and a third of one more while ranks exchange."""

    exchanges = True

    def advance(self, micro_batches: int) -> None:
        super().advance(micro_batches)
        if self.exchanges:
            self.pending_s += micro_batches * TICK / 3

    def switch(self, wanted: bool) -> None:
        self.exchanges = wanted


def test_the_exchange_is_what_it_adds_to_the_time_with_it() -> None:
    clock = FakeClock()
    target = Exchanging(clock)
    found = unexchanged(target, Alignment(1, 2, 0), 6, target.switch, 60.0, clock=clock)
    assert found is not None
    assert found.shares == [pytest.approx(0.25)] * 3
    assert found.own_s == pytest.approx(4 * TICK)
    assert target.exchanges
    assert target.issued % 2 == 0


def test_where_nothing_is_exchanged_the_share_is_none() -> None:
    clock = FakeClock()
    found = unexchanged(FakeTarget(clock), EAGER, 3, lambda _: None, 60.0, clock=clock)
    assert found is not None
    assert found.shares == [0.0] * 3


def test_the_exchange_is_that_of_the_slowest_rank_and_the_own_time_is_not() -> None:
    clock = FakeClock()
    target = Exchanging(clock)
    peers = FakePeers(slower_by=2.0)
    found = unexchanged(target, EAGER, 3, target.switch, 60.0, clock=clock, peers=peers)
    assert found is not None
    assert found.shares == [pytest.approx(0.25)] * 3
    assert found.own_s == pytest.approx(TICK)


def test_pairs_in_which_a_graph_was_compiled_are_left_out() -> None:
    clock = FakeClock()
    target = Exchanging(clock, compile_s={1: 10.0})
    found = unexchanged(target, EAGER, 3, target.switch, 60.0, clock=clock)
    assert found is not None
    assert found.shares == [pytest.approx(0.25)] * 3
    always = Exchanging(clock, compile_s=dict.fromkeys(range(100), 1.0))
    assert unexchanged(always, EAGER, 3, always.switch, 60.0, clock=clock) is None
    assert always.exchanges


def test_the_pairs_stop_at_their_budget_and_one_is_timed() -> None:
    clock = FakeClock()
    target = Exchanging(clock)
    found = unexchanged(target, EAGER, 3, target.switch, 0.0, clock=clock)
    assert found is not None
    assert len(found.shares) == 1
