"""The warm-up ends when the workload is steady, and no earlier; every time here is exact."""

import math
import random

import pytest

from bench.measure.alignment import Alignment
from bench.measure.target import Peers
from bench.measure.warm_up import WarmUp, first_step, warm_up
from tests.measure.fakes import TICK, FakeClock, FakePeers, FakeProgress, FakeTarget, Ranks, measure

EAGER = Alignment()


def test_the_first_step_runs_the_lead_in_and_waits_for_it() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, compile_s={0: 8.0})
    progress = FakeProgress()
    seconds = first_step(target, Alignment(1, 4, 0), clock=clock, progress=progress)
    assert seconds == 8.0 + 4 * TICK
    assert (target.issued, progress.log) == (4, ["progress first_step"])


def test_a_steady_workload_runs_the_minimum_of_seconds() -> None:
    clock = FakeClock()
    result = warm_up(FakeTarget(clock), EAGER, measure(warmup_s=1.0), 0, clock=clock)
    assert (result.micro_batches, result.steps, result.seconds) == (16, 16, 1.0)
    assert (result.steady, result.period_s) == (True, TICK)
    assert result.reason == (
        "the last two groups of 3 chunks agree: 0.0625 and 0.0625 s per period"
    )


def test_a_steady_workload_runs_the_minimum_of_steps() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, accumulation=2)
    result = warm_up(target, Alignment(1, 2, 0), measure(warmup_steps=40), 0, clock=clock)
    assert (result.steps, result.micro_batches, target.steps) == (40, 80, 40)
    assert result.period_s == 2 * TICK


def test_two_groups_of_three_chunks_are_the_least() -> None:
    clock = FakeClock()
    assert warm_up(FakeTarget(clock), EAGER, measure(), 0, clock=clock).micro_batches == 6


def test_long_periods_are_compared_two_against_two() -> None:
    clock = FakeClock()
    result = warm_up(FakeTarget(clock, lambda _: 2.0), EAGER, measure(), 0, clock=clock)
    assert (result.micro_batches, result.seconds) == (4, 8.0)


def test_short_periods_are_timed_in_chunks_that_dwarf_the_fence() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda _: 1 / 1024)
    result = warm_up(target, EAGER, measure(), 0, clock=clock)
    # Chunks of 1, 2, 4, ... 32 periods were too short; six of 64 periods (62.5 ms) were compared.
    assert result.micro_batches == 63 + 6 * 64
    assert result.period_s == 1 / 1024


def test_chunks_of_different_lengths_are_not_compared() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda i: 0.0502 if i < 3 else 0.0498)
    # Three chunks of one period, a fourth that was too short, and six of two periods.
    assert warm_up(target, EAGER, measure(), 0, clock=clock).micro_batches == 3 + 1 + 6 * 2


def test_a_compilation_at_step_35_starts_the_comparison_over() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, compile_s={34: 20.0})
    result = warm_up(target, EAGER, measure(warmup_steps=35), 0, clock=clock)
    assert (result.micro_batches, result.steady, result.period_s) == (41, True, TICK)
    assert result.seconds == 20.0 + 41 * TICK


def test_what_was_loaded_is_thrown_away_after_every_compilation_and_the_groups_begin_anew() -> None:
    clock = FakeClock()
    # The first 12 go before the third step, which therefore has the number 14.
    target = FakeTarget(clock, compile_s={14: 20.0})
    result = warm_up(target, EAGER, measure(), 12, clock=clock)
    begins = [line for line in clock.log if line not in {"clock", "fence"}]
    assert (
        begins
        == [*["advance 1"] * 2, "discard 12", *["advance 1"] * 3, "discard 12"] + ["advance 1"] * 6
    )
    assert result.micro_batches == 2 + 3 + 6


def test_a_workload_that_never_settles_is_not_steady_at_the_cap() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda i: TICK * 1.05**i)
    result = warm_up(target, EAGER, measure(warmup_cap_s=10.0), 0, clock=clock)
    assert not result.steady
    assert 10.0 <= result.seconds < 10.0 + TICK * 1.05**result.micro_batches
    assert result.reason.startswith("no steady state within 10 s: the last two groups of 3 chunks")


def test_a_workload_that_never_stops_compiling_is_not_steady_at_the_cap() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, compile_s=dict.fromkeys(range(1000), 1.0))
    result = warm_up(target, EAGER, measure(warmup_cap_s=10.0), 0, clock=clock)
    assert (result.steady, result.micro_batches) == (False, 10)
    assert result.reason == (
        "no steady state within 10 s: 0 of 2 periods ran without a compilation"
    )


def test_a_slow_start_is_left_behind() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda i: TICK * (1 + math.exp(-i / 25)))
    result = warm_up(target, EAGER, measure(), 0, clock=clock)
    assert result.steady
    assert result.period_s == pytest.approx(TICK, rel=0.02)


def test_the_truncation_rule_lengthens_a_warm_up_whose_last_chunks_agree() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda i: TICK * (1.5 if i < 10 else 1.0))
    result = warm_up(target, EAGER, measure(warmup_steps=22), 0, clock=clock)
    # At 22 chunks MSER-5 would drop 10 of 20, which is no longer the first half; at 25 it may.
    assert (result.micro_batches, result.steady) == (25, True)


def test_the_truncation_rule_at_most_doubles_the_warm_up() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda i: TICK * (1 + 0.001 * i))
    result = warm_up(target, EAGER, measure(warmup_steps=22), 0, clock=clock)
    assert (result.micro_batches, result.steady) == (44, True)


def test_the_doubling_counts_from_the_first_agreement_after_a_compilation() -> None:
    clock = FakeClock()
    target = FakeTarget(clock, lambda i: TICK * (1 + 0.001 * i), compile_s={45: 5.0})
    result = warm_up(target, EAGER, measure(warmup_steps=46 + 25), 0, clock=clock)
    assert (result.micro_batches, result.steady) == (46 + 2 * 25, True)


@pytest.mark.parametrize("seed", range(5))
def test_mere_noise_is_a_steady_state(seed: int) -> None:
    clock = FakeClock()
    rng = random.Random(seed)
    target = FakeTarget(clock, lambda _: TICK * rng.lognormvariate(0, 0.05))
    result = warm_up(target, EAGER, measure(warmup_s=1.0), 0, clock=clock)
    assert result.steady
    assert result.seconds < 5.0
    assert result.period_s == pytest.approx(TICK, rel=0.15)


def test_a_compilation_on_another_rank_counts() -> None:
    clock = FakeClock()
    peers = FakePeers(compiles_at=frozenset({4}))
    result = warm_up(FakeTarget(clock), EAGER, measure(), 0, clock=clock, peers=peers)
    assert result.micro_batches == 5 + 6


def test_the_slowest_rank_gives_the_period_and_the_seconds() -> None:
    clock = FakeClock()
    peers = FakePeers(slower_by=2.0)
    result = warm_up(FakeTarget(clock), EAGER, measure(warmup_s=1.0), 0, clock=clock, peers=peers)
    assert (result.micro_batches, result.period_s, result.seconds) == (8, 2 * TICK, 0.5)


def test_uneven_ranks_decide_alike() -> None:
    def rank_work(rank: int, peers: Peers) -> WarmUp:
        clock = FakeClock()
        cost = (TICK, 3 * TICK)[rank]
        target = FakeTarget(clock, lambda _: cost, compile_s={8: 5.0} if rank else None)
        return warm_up(target, EAGER, measure(warmup_steps=10), 0, clock=clock, peers=peers)

    fast, slow = Ranks(2).run(rank_work)
    assert fast.micro_batches == slow.micro_batches == 9 + 6
    assert fast.period_s == slow.period_s == 3 * TICK
    assert (fast.seconds, slow.seconds) == (15 * TICK, 5.0 + 45 * TICK)


def test_nobody_listens_inside_a_chunk() -> None:
    log: list[str] = []
    clock = FakeClock(log)
    warm_up(FakeTarget(clock), EAGER, measure(), 0, clock=clock, progress=FakeProgress(log))
    chunk = ["clock", "advance 1", "fence", "clock", "clock", "progress"]
    assert log == ["progress warm_up", "clock", *chunk * 6]
