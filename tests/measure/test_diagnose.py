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
