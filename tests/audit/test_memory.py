"""Memory that grows from window to window, and memory that only wanders or settles."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.audit.honest import FAIL, NA, PASS, found

MIB = 2**20
START = 400 * MIB


def after(*mib: float) -> tuple[int, ...]:
    """Return readings that were each so many MiB above the one before."""
    return tuple(int(START + MIB * total) for total in itertools.accumulate(mib))


def test_a_megabyte_a_window_is_a_leak() -> None:
    check = found("memory_flat", memory_bytes=after(*[4.0] * 10))
    assert check.result is FAIL
    assert check.evidence == (
        "440 MiB in use after the last of 9 windows; the line through all readings changes by "
        "+36.0 MiB, +4.00 ± 0.00 a window"
    )


def test_a_leak_under_noise_is_found_by_the_line_not_by_its_ends() -> None:
    generator = random.Random(1)
    grown = [START + MIB * (6 * i + generator.gauss(0, 6)) for i in range(12)]
    grown[0], grown[-1] = grown[0] + 45 * MIB, grown[-1] - 45 * MIB
    assert grown[-1] < grown[0]
    assert found("memory_flat", memory_bytes=tuple(map(int, grown))).result is PASS
    grown[0], grown[-1] = grown[0] - 45 * MIB, grown[-1] + 45 * MIB
    assert found("memory_flat", memory_bytes=tuple(map(int, grown))).result is FAIL


def test_an_arena_that_is_mapped_in_large_pieces_is_still_a_leak() -> None:
    steps = [0.0, 0.0, 64.0, 0.0, 0.0, 64.0, 0.0, 0.0, 64.0, 0.0, 0.0, 64.0]
    assert found("memory_flat", memory_bytes=after(*steps)).result is FAIL


def test_memory_given_back_once_does_not_hide_a_leak() -> None:
    for at in range(2, 9):
        steps = [20.0] * 9
        steps[at] -= 50
        assert found("memory_flat", memory_bytes=after(*steps)).result is FAIL, at


@pytest.mark.parametrize("windows", [8, 10, 20])
def test_a_leak_that_first_eats_what_the_process_has_free_is_found(windows: int) -> None:
    for flat in range(1, windows // 2 + 1):
        steps = [0.0] * flat + [15.0] + [34.0] * (windows - flat)
        assert found("memory_flat", memory_bytes=after(*steps)).result is FAIL, flat


def test_what_the_second_half_alone_shows_is_said_of_it() -> None:
    check = found("memory_flat", memory_bytes=after(0, 0, 0, 0, 0, 30, 30, 30, 30, 30))
    assert check.result is FAIL
    assert check.evidence.endswith("; that through the second half of them by +120.0 MiB")


def test_memory_that_stays_is_flat() -> None:
    assert found("memory_flat", memory_bytes=(START,) * 10).result is PASS


def test_an_allocator_that_settles_is_no_leak() -> None:
    assert found("memory_flat", memory_bytes=after(40, 20, 10, 5, 2, 1, 0, 0, 0, 0)).result is PASS


def test_one_step_is_no_leak() -> None:
    for readings in (*range(4, 22), 41):
        for at in range(1, readings):
            steps = [0.0] * readings
            steps[at] = 64
            check = found("memory_flat", memory_bytes=after(*steps))
            assert check.result is PASS, (readings, at)


def test_memory_that_falls_is_no_leak() -> None:
    assert found("memory_flat", memory_bytes=after(*[-8.0] * 10)).result is PASS


def test_what_is_certain_but_small_is_left_alone() -> None:
    """Ten pages a window are certain, and nothing that a run would die of within a day."""
    assert found("memory_flat", memory_bytes=after(*[0.04] * 10)).result is PASS


def test_one_percent_of_a_large_memory_is_small() -> None:
    large = tuple(80 * 1024 * MIB + 40 * MIB * i for i in range(10))
    assert found("memory_flat", memory_bytes=large).result is PASS
    larger = tuple(80 * 1024 * MIB + 200 * MIB * i for i in range(10))
    assert found("memory_flat", memory_bytes=larger).result is FAIL


@pytest.mark.parametrize("windows", [0, 3])
def test_too_few_readings_say_nothing(windows: int) -> None:
    assert found("memory_flat", memory_bytes=(START,) * windows).result is NA


@pytest.mark.parametrize(
    ("correlation", "most"), [(0.0, 2), (0.5, 7), (0.9, 45)], ids=["none", "some", "a walk"]
)
@pytest.mark.parametrize("windows", [4, 8, 10, 40])
def test_memory_that_wanders_by_5_percent_raises_hardly_an_alarm(
    windows: int, correlation: float, most: int
) -> None:
    generator = random.Random(windows)
    alarms = 0
    for _ in range(1000):
        level, series = 0.0, []
        for _ in range(windows):
            level = correlation * level + generator.gauss(0, 20)
            series.append(int(START + MIB * level))
        alarms += found("memory_flat", memory_bytes=tuple(series)).result is FAIL
    assert alarms <= most
