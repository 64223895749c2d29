"""The fixed calculation: what is timed, and that it sees a processor that got slower."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from bench.backends import host_pace


def test_the_shortest_of_three_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps: Iterator[int] = iter([0, 150_000, 1_000_000, 1_090_500, 2_000_000, 2_400_000])
    monkeypatch.setattr(host_pace.time, "thread_time_ns", lambda: next(stamps))
    assert host_pace.calculation_us() == 90.5
    assert next(stamps, None) is None


@pytest.mark.alone
def test_twice_the_instructions_take_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = []
    for _ in range(30):
        alone = host_pace.calculation_us()
        with monkeypatch.context() as patched:
            patched.setattr(host_pace, "_ROUNDS", 2 * host_pace._ROUNDS)
            ratios.append(host_pace.calculation_us() / alone)
    assert sorted(ratios)[15] == pytest.approx(2, rel=0.2)


@pytest.mark.alone
def test_waiting_for_other_threads_does_not_count() -> None:
    end = time.monotonic() + 1.0
    others = [threading.Thread(target=_count_until, args=(end,)) for _ in range(4)]
    alone = min(host_pace.calculation_us() for _ in range(20))
    for other in others:
        other.start()
    crowded = min(host_pace.calculation_us() for _ in range(5))
    for other in others:
        other.join()
    assert crowded < 3 * alone


def _count_until(end: float) -> None:
    while time.monotonic() < end:
        sum(range(1000))
