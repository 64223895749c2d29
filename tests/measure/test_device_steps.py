"""Steps by the device's own clock: marks between them, and nothing that waits."""

import pytest

from bench.measure.alignment import Alignment
from bench.measure.device_steps import of_block
from tests.measure.fakes import TICK, FakeClock, FakeTarget


class KeepsTime(FakeTarget):
    """Works behind the host; a mark is the moment at which its queue will have run dry."""

    def advance(self, micro_batches: int) -> None:
        super().advance(micro_batches)
        self.clock.spend(micro_batches * TICK / 4)

    def mark(self) -> float:
        self.clock.log.append("mark")
        return sum(self.cost(i) for i in range(self.issued))

    def between_s(self, earlier: float, later: float) -> float:
        assert self.pending_s == 0, "an event may only be read when it is done"
        return later - earlier


def test_the_devices_own_clock_times_single_steps_that_nobody_waits_for() -> None:
    clock = FakeClock()
    target = KeepsTime(clock, lambda i: TICK * (1 + i % 4))
    found = of_block(target, Alignment(1, 2, 0), 20, target, clock=clock)
    # Two micro-batches a step: 1 + 2 TICKs, then 3 + 4.
    assert (found.steps, found.p50_ms, found.p95_ms, found.p99_ms) == (20, 187.5, 437.5, None)
    assert found.sum_s == 10 * 3 * TICK + 10 * 7 * TICK
    assert found.host_s > found.sum_s
    block = clock.log[clock.log.index("mark") :]
    assert block.count("mark") == 21
    assert block.count("fence") == 1
    assert block[-2:] == ["fence", "clock"]


def test_the_devices_clock_leaves_nothing_unfinished_and_needs_a_step() -> None:
    clock = FakeClock()
    target = KeepsTime(clock, lambda _: TICK)
    of_block(target, Alignment(), 3, target, clock=clock)
    assert target.pending_s == 0
    assert target.issued == 3
    with pytest.raises(ValueError, match="periods=0"):
        of_block(target, Alignment(), 0, target, clock=clock)
