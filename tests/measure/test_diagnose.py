"""The diagnostic pass: what it divides, and what it declines to say."""

import pytest

from bench.measure.alignment import Alignment
from bench.measure.diagnose import (
    NoSingleStep,
    Percentiles,
    doubling,
    latencies,
    latency,
    loader_share,
    naive_clock,
    percentiles,
)
from bench.results.record import Latency
from tests.measure.fakes import TICK, FakeClock, FakePeers, FakeTarget

EAGER = Alignment()


class NeverWaits(FakeTarget):
    """A fence that returns at once, as `sync(wait=True)` does: the clock sees the issue only."""

    def advance(self, micro_batches: int) -> None:
        super().advance(micro_batches)
        self.clock.spend(0.001)

    def fence(self) -> None:
        self.pending_s = 0.0


def test_doubling_the_work_doubles_the_time() -> None:
    clock = FakeClock()
    target = FakeTarget(clock)
    assert doubling(target, Alignment(1, 2, 0), 3, clock=clock) == 2.0
    assert target.issued == 4 * 6


def test_a_steady_drift_does_not_show_in_the_doubling() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda i: TICK * (1 + i / 64))
    assert doubling(target, EAGER, 4, clock=clock) == pytest.approx(2.0)


def test_a_clock_that_sees_no_work_does_not_double() -> None:
    clock = FakeClock()
    assert doubling(NeverWaits(clock), EAGER, 4, clock=clock) == pytest.approx(1.0)


def test_nothing_cannot_be_doubled() -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="periods=0"):
        doubling(FakeTarget(clock), EAGER, 0, clock=clock)


class WaitsForItsLoader(FakeTarget):
    """Every micro-batch waits for its batch on the host before it is issued."""

    waited_s = 5.0

    def advance(self, micro_batches: int) -> None:
        self.waited_s += micro_batches * TICK
        self.clock.spend(micro_batches * TICK)
        super().advance(micro_batches)

    def wait_s(self) -> float:
        return self.waited_s


def test_the_loader_share_is_waiting_over_the_block() -> None:
    clock = FakeClock()
    target = WaitsForItsLoader(clock, lambda _: 3 * TICK)
    assert loader_share(target, EAGER, 8, target, clock=clock) == 0.25
    peers = FakePeers(slower_by=2.0)
    assert loader_share(target, EAGER, 8, target, clock=clock, peers=peers) == 0.5


class BehindTheHost(FakeTarget):
    """Issuing a micro-batch costs the host 1/64 s; the device takes longer, and runs behind."""

    HOST_S = TICK / 4

    def advance(self, micro_batches: int) -> None:
        super().advance(micro_batches)
        self.clock.spend(micro_batches * self.HOST_S)


def test_the_naive_clock_reads_the_truth_where_work_is_done_when_a_call_returns() -> None:
    class Eager(FakeTarget):
        def advance(self, micro_batches: int) -> None:
            super().advance(micro_batches)
            super().fence()

    clock = FakeClock()
    found = naive_clock(Eager(clock, lambda i: TICK * (1 + i % 2)), EAGER, 4, clock=clock)
    assert found == (6 * TICK, 6 * TICK, 1.5 * TICK, 4)


def test_the_naive_clock_reads_the_issue_where_the_device_works_behind_the_host() -> None:
    clock = FakeClock()
    target = BehindTheHost(clock)
    found = naive_clock(target, Alignment(1, 2, 0), 3, clock=clock)
    # A step is two micro-batches: the host needs TICK / 2 for it, the device two TICKs.
    assert (found.seconds, found.median_s, found.steps) == (6 * TICK / 4, TICK / 2, 3)
    assert found.fenced_s > 5 * TICK


def test_the_naive_clock_misses_the_graph_that_no_cut_has_sent_off() -> None:
    class Lazy(BehindTheHost):
        """A graph is executed when it is cut, and only then."""

        def _cut(self) -> None:
            if self._graph:
                self.clock.spend(self.pending_s)
                self.pending_s = 0.0
            super()._cut()

    clock = FakeClock()
    target = Lazy(clock, cuts_every=4)
    alignment = Alignment(4, 1, 3)
    for micro_batches in (3, 4):
        target.advance(micro_batches)
        target.fence()
    found = naive_clock(target, alignment, 2, clock=clock)
    # Eight micro-batches in two graphs, of which the second is cut by the fence behind the clock:
    # four are executed, eight are issued. All steps but that with the cut are only issued.
    assert found == (4 * TICK + 8 * TICK / 4, 8 * TICK + 8 * TICK / 4, TICK / 4, 8)


def test_the_naive_clock_leaves_nothing_unfinished_and_ends_at_an_edge() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, cuts_every=4)
    alignment = Alignment(4, 2, 3)
    target.advance(alignment.lead_in)
    target.fence()
    naive_clock(target, alignment, 3, clock=clock)
    assert target.pending_s == 0
    assert target.issued == alignment.lead_in + 12
    assert len(target.graphs[1:]) == 3
    assert {len(graph) for graph in target.graphs[1:]} == {4}


def test_the_naive_clock_takes_the_slowest_rank_and_needs_a_step() -> None:
    clock = FakeClock()
    peers = FakePeers(slower_by=2.0)
    target = BehindTheHost(clock)
    assert naive_clock(target, EAGER, 4, clock=clock, peers=peers).seconds == 2 * TICK
    with pytest.raises(ValueError, match="periods=0"):
        naive_clock(target, EAGER, 0, clock=clock)


def test_latencies_are_single_fenced_steps() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda i: TICK * (i + 1))
    assert latencies(target, EAGER, 4, 100.0, clock=clock) == [TICK, 2 * TICK, 3 * TICK, 4 * TICK]


def test_latencies_stop_at_their_budget_and_take_at_least_one() -> None:
    clock = FakeClock()
    assert len(latencies(FakeTarget(clock), EAGER, 100, 1.0, clock=clock)) == 16
    assert latencies(FakeTarget(clock), EAGER, 100, 0.0, clock=clock) == [TICK]


def test_a_graph_of_several_steps_has_no_latency_of_a_step() -> None:
    clock = FakeClock()
    with pytest.raises(NoSingleStep, match="4 steps run in one graph"):
        latencies(FakeTarget(clock, cuts_every=4), Alignment(4, 1, 3), 10, 1.0, clock=clock)
    with pytest.raises(ValueError, match="steps=0"):
        latencies(FakeTarget(clock), EAGER, 0, 1.0, clock=clock)


def test_percentiles_are_observed_values() -> None:
    values = [float(v) for v in range(100, 0, -1)]
    assert percentiles(values) == Percentiles(50.0, 95.0, 99.0)
    assert percentiles(values[:20]) == Percentiles(90.0, 99.0, None)


def test_too_few_values_have_no_percentile() -> None:
    assert percentiles([1.0] * 99).p99 is None
    assert percentiles([1.0] * 19).p95 is None
    assert percentiles([1.0]) == Percentiles(None, None, None)


def test_the_record_gets_milliseconds() -> None:
    assert latency([TICK] * 20) == Latency(steps=20, p50_ms=62.5, p95_ms=62.5, p99_ms=None)
