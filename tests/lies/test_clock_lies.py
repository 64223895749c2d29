"""Lies of the clock: it stops too early, or runs over what is not the work."""

from __future__ import annotations

import pytest

from bench.measure import windows as windows_module
from bench.measure.alignment import Alignment
from bench.measure.target import Clock, Target
from bench.measure.warm_up import first_step, warm_up
from bench.results.record import Launch
from tests.builders import a_launch, a_record
from tests.lies.fake_runs import HOST_S, BusyHost, busy_host, caught, windows
from tests.measure.fakes import TICK, measure

PLAIN = Alignment()


def stop_before_the_fence(target: Target, micro_batches: int, clock: Clock) -> float:
    begin = clock.now()
    target.advance(micro_batches)
    return clock.now() - begin


def test_the_control_is_an_honest_run_that_nothing_catches() -> None:
    measured = windows(busy_host(), PLAIN)
    assert measured.window_s == pytest.approx([8 * (TICK + HOST_S)] * 3)
    assert caught(measured) == set()


def test_a_clock_that_reads_the_dispatch_is_caught_by_fence_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(windows_module, "timed_advance", stop_before_the_fence)
    measured = windows(busy_host(), PLAIN)
    assert measured.window_s == pytest.approx([8 * HOST_S] * 3)
    assert "fence_waits" in caught(measured)


def test_a_missing_last_fence_is_caught_by_fence_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last of eight micro-batches is still on its way: 12 % of the window."""

    def all_but_the_last(target: Target, micro_batches: int, clock: Clock) -> float:
        begin = clock.now()
        target.advance(micro_batches - 1)
        target.fence()
        target.advance(1)
        return clock.now() - begin

    monkeypatch.setattr(windows_module, "timed_advance", all_but_the_last)
    measured = windows(busy_host(), PLAIN)
    assert measured.window_s == pytest.approx([7 * TICK + 8 * HOST_S] * 3)
    assert caught(measured) == {"fence_waits"}


def test_a_fence_that_does_not_wait_is_caught_with_a_queue_deeper_than_the_window() -> None:
    """Nothing is ever waited for, so every window costs what issuing costs, and T(2K)/T(K) is 2."""

    class Deep(BusyHost):
        def fence(self) -> None:
            self.clock.log.append("fence")

    measured = windows(Deep(busy_host().clock), PLAIN)
    assert measured.window_s == pytest.approx([8 * HOST_S] * 3)
    assert caught(measured) == {"fence_waits"}


def test_a_compilation_in_a_window_voids_it() -> None:
    target = busy_host(compile_s={10: 5.0})
    measured = windows(target, PLAIN)
    assert measured.voided == 1
    assert max(measured.window_s) == pytest.approx(8 * (TICK + HOST_S))


def test_compilations_in_every_window_are_caught_by_no_compile_in_window() -> None:
    target = busy_host(compile_s=dict.fromkeys(range(8, 4000, 8), 5.0))
    assert "no_compile_in_window" in caught(windows(target, PLAIN))


def test_a_recompilation_at_step_35_never_reaches_the_number() -> None:
    """The usual ten steps of warm-up end long before it."""
    target = busy_host(compile_s={35: 5.0})
    settled = warm_up(target, PLAIN, measure(warmup_steps=10), 0, clock=target.clock)
    measured = windows(target, PLAIN, periods=16)
    assert settled.steady
    assert settled.micro_batches <= 35, "the warm-up met it, so no window could"
    assert measured.voided == 1
    assert measured.window_s == pytest.approx([16 * (TICK + HOST_S)] * 3)


def test_a_warm_up_shorter_than_two_periods_voids_the_first_window() -> None:
    """The second graph, the first of full length, is compiled only then."""
    alignment = Alignment(batches_per_execution=4, first_cut=3)
    target = busy_host(cuts_every=4)
    first_step(target, alignment, clock=target.clock)
    compiled = target.compiles()
    measured = windows(target, alignment, periods=2)
    assert target.compiles() > compiled
    assert measured.voided == 1
    assert caught(measured, batches_per_execution=4) == set()


def test_the_warm_up_itself_is_never_shorter_than_two_periods() -> None:
    alignment = Alignment(batches_per_execution=4, first_cut=3)
    target = busy_host(cuts_every=4)
    first_step(target, alignment, clock=target.clock)
    settled = warm_up(target, alignment, measure(warmup_steps=1), 0, clock=target.clock)
    assert settled.micro_batches >= 2 * alignment.period


def test_a_window_that_is_no_multiple_of_the_period_is_caught_by_executions_counted() -> None:
    """Three micro-batches a window on a device that cuts every four: edges cut graphs short."""
    target = busy_host(cuts_every=4)
    measured = windows(target, Alignment(batches_per_execution=3), periods=5)
    assert "executions_counted" in caught(measured, batches_per_execution=3)


class TestArithmetic:
    def test_a_mean_of_rates_is_no_number_of_a_record(self) -> None:
        """Windows of 1 s and 4 s with 8 samples each: 3.2 samples/s, and 5 as a mean of rates."""
        launch = a_launch(window_s=[[1.0, 4.0]], samples_per_window=8)
        assert launch.samples_per_s == pytest.approx(3.2)
        with pytest.raises(ValueError, match=r"is 5, and the windows of its launches give 3\.2"):
            self._stating(launch, 5.0)

    def test_rank_0_times_the_world_is_no_number_of_a_record(self) -> None:
        """Two ranks of 8 samples each, 1 s and 2 s: 8 samples/s, and 16 as twice rank 0."""
        launch = a_launch(window_s=[[1.0], [2.0]], samples_per_window=16)
        assert launch.samples_per_s == pytest.approx(8.0)
        with pytest.raises(ValueError, match="is 16, and the windows of its launches give 8"):
            self._stating(launch, 16.0)

    def test_the_ratio_of_totals_is(self) -> None:
        self._stating(a_launch(window_s=[[1.0, 4.0]], samples_per_window=8), 3.2)

    @staticmethod
    def _stating(launch: Launch, samples_per_s: float) -> None:
        honest = a_record(launches=[launch])
        assert honest.statistics is not None
        document = honest.model_dump(mode="json", by_alias=True)
        document["statistics"]["samples_per_s"] = samples_per_s
        type(honest).model_validate(document)
