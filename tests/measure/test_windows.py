"""Windows hold the time of their work and nothing else; every time here is exact."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.measure.alignment import Alignment
from bench.measure.target import ClockError, Peers
from bench.measure.warm_up import first_step, warm_up
from bench.measure.windows import (
    Measured,
    NoCleanWindow,
    WindowPlan,
    leading_warm_up,
    measure_windows,
    plan_windows,
)
from tests.measure.fakes import TICK, FakeClock, FakePeers, FakeProgress, FakeTarget, Ranks, measure

EAGER = Alignment()


@pytest.mark.parametrize(
    ("period_s", "periods", "windows"),
    [
        (0.1, 10, 10),
        (0.3, 3, 10),
        (0.6, 1, 10),
        (1.0, 1, 10),
        (1.5, 1, 6),
        (2.0, 1, 5),
        (4.0, 1, 3),
        (60.0, 1, 3),
    ],
)
def test_a_launch_spends_its_share_of_the_budget(
    period_s: float, periods: int, windows: int
) -> None:
    plan = plan_windows(measure(budget_s=30.0, launches=3, windows=10), period_s)
    assert plan == WindowPlan(periods_per_window=periods, windows=windows)


@given(st.floats(1e-4, 100.0), st.floats(1.0, 600.0), st.integers(1, 20), st.integers(3, 100))
def test_only_three_windows_of_one_period_may_exceed_the_budget(
    period_s: float, budget_s: float, launches: int, windows: int
) -> None:
    settings = measure(budget_s=budget_s, launches=launches, windows=windows)
    plan = plan_windows(settings, period_s)
    planned_s = plan.windows * plan.periods_per_window * period_s
    assert 3 <= plan.windows <= windows
    assert planned_s <= budget_s / launches * (1 + 1e-6) or plan == WindowPlan(1, 3)


@pytest.mark.parametrize(
    ("period_s", "plan"),
    [
        # 10 s a launch: 1,000 periods make ten windows of a hundred.
        (0.01, WindowPlan(periods_per_window=100, windows=10)),
        # 500 periods: ten windows would hold 50 each, so there are five of a hundred.
        (0.02, WindowPlan(periods_per_window=100, windows=5)),
        # 100 periods: three windows is the least, and each gets its third.
        (0.1, WindowPlan(periods_per_window=33, windows=3)),
        (5.0, WindowPlan(periods_per_window=1, windows=3)),
    ],
)
def test_windows_of_a_device_that_has_to_be_refilled_are_longer_and_fewer(
    period_s: float, plan: WindowPlan
) -> None:
    settings = measure(budget_s=30.0, launches=3, windows=10)

    assert plan_windows(settings, period_s, least_periods=100) == plan


def test_windows_that_are_long_enough_are_left_alone() -> None:
    settings = measure(budget_s=30.0, launches=3, windows=10)

    assert plan_windows(settings, 0.001, least_periods=100) == plan_windows(settings, 0.001)


@pytest.mark.parametrize("period_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_period_without_a_length_cannot_be_planned(period_s: float) -> None:
    with pytest.raises(ValueError, match="cannot fill a window"):
        plan_windows(measure(), period_s)


def test_throughput_follows_from_known_windows() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda i: TICK * (1 + i // 8), accumulation=2)
    result = measure_windows(target, Alignment(1, 2, 0), WindowPlan(4, 3), clock=clock)
    assert result.window_s == [8 * TICK, 16 * TICK, 24 * TICK]
    assert (result.micro_batches_per_window, result.steps_per_window) == (8, 4)
    assert 3 * result.micro_batches_per_window / sum(result.window_s) == 8.0


def test_the_clock_is_read_after_the_work_and_not_after_its_issue() -> None:
    clock = FakeClock()
    target = FakeTarget(clock)
    begin = clock.now()
    target.advance(16)
    unfenced = clock.now() - begin
    target.fence()
    measured = measure_windows(target, EAGER, WindowPlan(16, 1), clock=clock)
    assert (unfenced, measured.window_s) == (0.0, [1.0])


def test_a_window_is_fence_barrier_clock_work_fence_clock_and_nothing_else() -> None:
    log: list[str] = []
    clock = FakeClock(log)
    measure_windows(
        FakeTarget(clock),
        EAGER,
        WindowPlan(2, 3),
        clock=clock,
        peers=FakePeers(log),
        progress=FakeProgress(log),
    )
    window = ["fence", "barrier", "clock", "advance 2", "fence", "clock", "residual", "progress"]
    assert log == ["progress measure", *window * 3]


def test_a_compilation_voids_its_window_which_is_repeated() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, compile_s={34: 20.0})
    progress = FakeProgress()
    result = measure_windows(target, EAGER, WindowPlan(10, 5), clock=clock, progress=progress)
    assert result.window_s == [10 * TICK] * 5
    assert (result.voided, result.exhausted) == (1, False)
    # Five clean windows, the void one, and two periods with the compiler at rest.
    assert target.issued == 50 + 10 + 2
    assert [done for done, _, _ in progress.windows] == [1, 2, 3, 4, 5]
    assert "progress voided 1" in progress.log


def test_after_a_void_window_the_compiler_must_come_to_rest() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, compile_s=dict.fromkeys(range(3, 16), 1.0))
    result = measure_windows(target, EAGER, WindowPlan(4, 3), clock=clock)
    # Void: 0-3. Settling: 4-5, ... 14-15 compile, 16-17 do not. Then three clean windows.
    assert (result.voided, target.issued) == (1, 18 + 12)
    assert result.window_s == [4 * TICK] * 3


def test_a_launch_whose_compiler_never_rests_keeps_its_clean_windows() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, compile_s=dict.fromkeys(range(40, 1000), 1.0))
    result = measure_windows(target, EAGER, WindowPlan(10, 8), clock=clock)
    assert result.window_s == [10 * TICK] * 4
    assert (result.voided, result.exhausted) == (1, True)


class CompilesInWindows(FakeTarget):
    """Compiles whenever more than two micro-batches are issued at once."""

    def advance(self, micro_batches: int) -> None:
        super().advance(micro_batches)
        self.compiled += micro_batches > 2


def test_without_a_clean_window_there_is_no_number() -> None:
    clock = FakeClock()
    with pytest.raises(NoCleanWindow, match="every one of 5 windows") as caught:
        measure_windows(CompilesInWindows(clock), EAGER, WindowPlan(10, 5), clock=clock)
    assert caught.value.voided == 5


def test_a_compilation_on_another_rank_voids_the_window_here() -> None:
    clock = FakeClock()
    peers = FakePeers(compiles_at=frozenset({1}))
    target = FakeTarget(clock)
    result = measure_windows(target, EAGER, WindowPlan(10, 3), clock=clock, peers=peers)
    assert (result.voided, len(result.window_s), target.issued) == (1, 3, 42)


def test_uneven_ranks_keep_their_own_times_and_know_the_slowest() -> None:
    def rank_work(rank: int, peers: Peers) -> Measured:
        clock = FakeClock()
        target = FakeTarget(clock, lambda i: TICK * (2 if (i // 4) % 2 == rank else 1))
        return measure_windows(target, EAGER, WindowPlan(4, 4), clock=clock, peers=peers)

    first, second = Ranks(2).run(rank_work)
    assert first.window_s == [8 * TICK, 4 * TICK] * 2
    assert second.window_s == [4 * TICK, 8 * TICK] * 2
    assert first.slowest_s == second.slowest_s == [8 * TICK] * 4
    # Both ranks' work over the slowest rank's time: no mean of rates, no 2 x rank 0.
    assert 2 * 4 * 4 / sum(first.slowest_s) == 16.0


def test_ranks_void_drop_and_stop_together() -> None:
    def rank_work(rank: int, peers: Peers) -> Measured:
        clock = FakeClock()
        compile_s = {8: 1.0} if rank else None
        target = FakeTarget(
            clock, lambda i: TICK * (3 if rank and i < 6 else 1), compile_s=compile_s
        )
        return measure_windows(target, EAGER, WindowPlan(2, 12), clock=clock, peers=peers)

    first, second = Ranks(2).run(rank_work)
    assert (first.voided, first.dropped) == (second.voided, second.dropped) == (1, 3)
    assert len(first.window_s) == len(second.window_s) == 9


def test_the_residual_is_read_after_every_window() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, residual_s=0.3)
    assert measure_windows(target, EAGER, WindowPlan(1, 3), clock=clock).residual_s == [0.3] * 3


def test_a_clock_that_stands_still_is_an_error() -> None:
    clock = FakeClock()
    with pytest.raises(ClockError, match="nothing was measured"):
        measure_windows(FakeTarget(clock, lambda _: 0.0), EAGER, WindowPlan(1, 3), clock=clock)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("batches", [1, 3, 4, 10])
def test_aligned_windows_execute_exactly_what_was_expected(batches: int, accumulation: int) -> None:
    clock = FakeClock()
    target = FakeTarget(clock, cuts_every=batches, accumulation=accumulation)
    alignment = Alignment(batches, accumulation, batches - 1)
    first_step(target, alignment, clock=clock)
    warm = warm_up(target, alignment, measure(), 0, clock=clock)
    result = measure_windows(target, alignment, WindowPlan(2, 5), clock=clock)
    assert warm.period_s == alignment.period * TICK
    assert result.window_s == [2 * alignment.period * TICK] * 5
    assert result.executions == result.expected_executions == 10 * alignment.period // batches
    assert result.voided == 0


def test_windows_off_the_edge_execute_more_than_expected() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, cuts_every=4)
    alignment = Alignment(4, 1, 0)
    first_step(target, alignment, clock=clock)
    warm_up(target, alignment, measure(), 0, clock=clock)
    result = measure_windows(target, alignment, WindowPlan(2, 5), clock=clock)
    assert (result.executions, result.expected_executions) == (15, 10)


def test_an_eager_device_expects_no_executions() -> None:
    clock = FakeClock()
    result = measure_windows(FakeTarget(clock), EAGER, WindowPlan(1, 3), clock=clock)
    assert (result.executions, result.expected_executions) == (None, None)


def test_leading_windows_that_were_still_warm_up_are_dropped() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda i: TICK * (1.5 if i < 3 else 1.0))
    result = measure_windows(target, EAGER, WindowPlan(1, 12), clock=clock)
    assert (result.dropped, result.window_s) == (3, [TICK] * 9)


def test_one_slow_window_among_fast_ones_stays_in_the_number() -> None:
    assert leading_warm_up([1.0, 1.0, 1.0, 5.0] + [1.0] * 8) == 0


def test_a_slow_start_that_comes_back_later_is_no_warm_up() -> None:
    assert leading_warm_up([2.0, 1.0, 1.0, 2.0] + [1.0] * 6) == 0


def test_few_windows_are_never_dropped() -> None:
    assert leading_warm_up([5.0] + [1.0] * 8) == 0
    assert leading_warm_up([5.0] + [1.0] * 9) == 1


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=40))
def test_at_least_half_of_the_windows_remain(times: list[float]) -> None:
    dropped = leading_warm_up(times)
    assert 2 * dropped <= len(times)
    assert not dropped or min(times[:dropped]) > max(times[dropped:])
