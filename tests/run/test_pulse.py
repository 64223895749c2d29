"""A rank that steps is alive, one that has stepped and is silent is hung; a long window is not."""

from __future__ import annotations

import pytest

from bench.results.record import Phase
from bench.run import pulse as pulses
from bench.worker.job import Event


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(pulses.time, "monotonic", fake.monotonic)
    return fake


def stepping(clock: Clock, pulse: pulses.Pulse, gap_s: float, groups: int = 3) -> None:
    pulse.hear(Event(rank=0, phase=Phase.WARM_UP))
    for done in range(groups):
        clock.now += gap_s
        pulse.hear(Event(rank=0, phase=Phase.WARM_UP, done=done))


def test_silence_after_steady_steps_is_a_hang(clock: Clock) -> None:
    pulse = pulses.Pulse(1, hang_s=120)
    stepping(clock, pulse, gap_s=1.0)

    clock.now += 119
    assert pulse.silent_rank() is None
    clock.now += 2
    assert pulse.silent_rank() == (0, 121)


def test_of_several_that_are_silent_the_one_heard_least_recently_is_named(clock: Clock) -> None:
    pulse = pulses.Pulse(3, hang_s=120)
    for done in range(4):
        clock.now += 1.0
        for rank in (0, 1, 2):
            if (rank, done) != (1, 3):
                pulse.hear(Event(rank=rank, phase=Phase.MEASURE, done=done))

    clock.now += 121
    assert pulse.silent_rank() == (1, 122)


def test_a_slow_step_earns_ten_times_its_length(clock: Clock) -> None:
    pulse = pulses.Pulse(1, hang_s=120)
    stepping(clock, pulse, gap_s=30.0)

    clock.now += 299
    assert pulse.silent_rank() is None
    clock.now += 2
    assert pulse.silent_rank() is not None


def test_a_window_that_is_announced_as_long_may_be_silent_for_long(clock: Clock) -> None:
    pulse = pulses.Pulse(1, hang_s=120)
    stepping(clock, pulse, gap_s=1.0)
    pulse.hear(Event(rank=0, phase=Phase.MEASURE, expected_s=240.0))

    clock.now += 2399
    assert pulse.silent_rank() is None
    clock.now += 2
    assert pulse.silent_rank() is not None


def test_a_rank_that_waits_for_its_turn_is_not_silent(clock: Clock) -> None:
    pulse = pulses.Pulse(1, hang_s=120)
    stepping(clock, pulse, gap_s=1.0)
    pulse.hear(Event(rank=0, phase=Phase.MEASURE, waiting="window"))

    clock.now += 3600
    assert pulse.silent_rank() is None


def test_a_rank_that_falls_silent_in_its_turn_is_hung(clock: Clock) -> None:
    pulse = pulses.Pulse(1, hang_s=120)
    stepping(clock, pulse, gap_s=1.0)
    pulse.hear(Event(rank=0, phase=Phase.MEASURE, waiting="window"))
    clock.now += 3600
    pulse.hear(Event(rank=0, phase=Phase.MEASURE))

    clock.now += 121
    assert pulse.silent_rank() == (0, 121)


def test_ranks_that_wait_beside_rank_0_are_not_silent_either(clock: Clock) -> None:
    pulse = pulses.Pulse(2, hang_s=120)
    for rank in (0, 1):
        for done in range(3):
            clock.now += 1.0
            pulse.hear(Event(rank=rank, phase=Phase.MEASURE, done=done))
        pulse.hear(Event(rank=rank, phase=Phase.MEASURE, waiting="window"))

    clock.now += 3600
    assert pulse.silent_rank() is None


def test_what_it_waited_for_its_turns_is_not_its_own_time(clock: Clock) -> None:
    pulse = pulses.Pulse(1, hang_s=120)
    clock.now += 10
    for _ in range(2):
        pulse.hear(Event(rank=0, phase=Phase.MEASURE, waiting="window"))
        clock.now += 100
        pulse.hear(Event(rank=0, phase=Phase.MEASURE))
        clock.now += 5
    pulse.hear(Event(rank=0, phase=Phase.MEASURE, waiting="end"))
    clock.now += 7

    assert pulse.rested_s() == 207


def test_a_compilation_in_the_first_warm_up_groups_is_left_to_the_timeout(clock: Clock) -> None:
    pulse = pulses.Pulse(1, hang_s=120)
    stepping(clock, pulse, gap_s=1.0, groups=1)

    clock.now += 3600
    assert pulse.silent_rank() is None


def test_an_event_of_a_rank_that_is_not_there_is_not_ours(clock: Clock) -> None:
    pulse = pulses.Pulse(1, hang_s=120)

    pulse.hear(Event(rank=7, phase=Phase.MEASURE))
    pulse.hear(Event(rank=-1, phase=Phase.MEASURE))

    assert pulse.phases == [Phase.START]
