"""A launch that computes by turns: when it waits, and that waiting is in no window."""

from __future__ import annotations

from bench.measure.alignment import Alignment
from bench.measure.turns import UNDIVIDED
from bench.measure.windows import WindowPlan, measure_windows
from tests.measure.fakes import TICK, FakeClock, FakeProgress, FakeTarget

AWAY_S = 100.0


class OtherSide:
    """While it computes the clock runs on, and our caches are cold afterwards."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.cold = False

    def wait(self) -> bool:
        self.clock.log.append("wait")
        self.clock.spend(AWAY_S)
        self.cold = True
        return True


def test_it_waits_before_every_window_and_nowhere_else() -> None:
    clock = FakeClock()
    target, other = FakeTarget(clock), OtherSide(clock)
    measure_windows(target, Alignment(), WindowPlan(8, 3), clock=clock, turns=other)
    steps = [entry for entry in clock.log if entry == "wait" or entry.startswith("advance")]
    assert steps == [
        *("wait", "advance 8", "advance 8"),
        *("wait", "advance 1", "advance 8"),
        *("wait", "advance 1", "advance 8"),
    ]


def test_windows_of_one_step_get_warm_like_all_others() -> None:
    """Of two sides, one with and one without it would differ by what the caches cost."""
    clock = FakeClock()
    target = FakeTarget(clock)
    measure_windows(target, Alignment(), WindowPlan(1, 3), clock=clock, turns=OtherSide(clock))
    assert target.issued == 3 * (1 + 1)


def test_neither_the_wait_nor_the_cold_start_after_it_is_in_a_window() -> None:
    clock = FakeClock()
    other = OtherSide(clock)

    def cost(_: int) -> float:
        slow = TICK * (3 if other.cold else 1)
        other.cold = False
        return slow

    target = FakeTarget(clock, cost)
    found = measure_windows(target, Alignment(), WindowPlan(4, 3), clock=clock, turns=other)
    assert found.window_s == [4 * TICK] * 3


def test_what_comes_back_to_the_caches_is_whole_periods() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, cuts_every=4, accumulation=2)
    alignment = Alignment(batches_per_execution=4, gradient_accumulation=2, first_cut=3)
    target.advance(alignment.lead_in)
    target.fence()
    found = measure_windows(
        target, alignment, WindowPlan(2, 3), clock=clock, turns=OtherSide(clock)
    )
    assert found.voided == 0
    assert found.executions == found.expected_executions


def test_a_voided_window_waits_again() -> None:
    clock = FakeClock()
    # The 13th micro-batch is in the second window, after 4 + 4 and 1 of getting warm again.
    target = FakeTarget(clock, compile_s={12: 1.0})
    progress = FakeProgress()
    found = measure_windows(
        target,
        Alignment(),
        WindowPlan(4, 2),
        clock=clock,
        turns=OtherSide(clock),
        progress=progress,
    )
    assert found.voided == 1
    assert clock.log.count("wait") == 3


def test_a_launch_on_its_own_never_waits() -> None:
    assert not UNDIVIDED.wait()
