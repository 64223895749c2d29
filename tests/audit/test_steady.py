"""Windows whose speed steps or drifts, and windows that are only noisy.

The rates below are those that the check's docstring states, on fewer draws.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterator

import pytest

from bench.audit.checks.steady import FEWEST, MOST, needed_share, windows_steady
from bench.results.record import CheckResult, Clocks, Noise
from tests.audit.honest import FAIL, HONEST, NA, PASS, found

Shape = Callable[[float], float]
"""The time of a window by its place, from 0 to 1, relative to the first."""


def flat(_: float) -> float:
    return 1.0


def throttled_at_half(place: float) -> float:
    return 1.05 if place >= 0.5 else 1.0


def drifting(place: float) -> float:
    return 1 + 0.05 * place


def times(
    generator: random.Random,
    count: int,
    *,
    scatter: float = 0.0,
    correlation: float = 0.0,
    shape: Shape = flat,
) -> tuple[float, ...]:
    """Return windows with noise that each shares in part with its neighbour (AR(1))."""
    fresh = math.sqrt(1 - correlation**2)
    level, series = generator.gauss(0, 1), []
    for i in range(count):
        level = correlation * level + fresh * generator.gauss(0, 1)
        series.append(shape(i / (count - 1)) * math.exp(scatter * level))
    return tuple(series)


def result(window_s: tuple[float, ...]) -> CheckResult:
    return windows_steady(dataclasses.replace(HONEST, window_s=window_s))[0]


def failures(series: Iterator[tuple[float, ...]]) -> float:
    """Return the share of launches that fail."""
    results = [result(window_s) for window_s in series]
    return results.count(FAIL) / len(results)


def test_one_speed_is_steady() -> None:
    check = found("windows_steady", window_s=(1.0,) * 10)
    assert (check.result, check.evidence) == (
        PASS,
        "the second half of 10 windows took 0.0% longer than the first; no step and no drift "
        "stands out of a scatter of 0.0%",
    )


def test_a_throttle_of_5_percent_at_half_the_windows_is_told_with_its_place() -> None:
    check = found("windows_steady", window_s=(1.0,) * 5 + (1.05,) * 5)
    assert check.result is FAIL
    assert check.evidence == (
        "from window 6 of 10 on they took 5.0% longer than before (accounts for 100% of the "
        "scatter, limit 95%)"
    )


def test_a_slow_drift_of_5_percent_is_told_with_its_size() -> None:
    check = found("windows_steady", window_s=tuple(1 + 0.05 * i / 9 for i in range(10)))
    assert check.result is FAIL
    assert check.evidence == (
        "their time drifted by +4.9% from the first to the last of 10 (a line accounts for 100% "
        "of the scatter, limit 95%)"
    )


def test_getting_faster_is_as_unsteady_as_getting_slower() -> None:
    check = found("windows_steady", window_s=(1.05,) * 5 + (1.0,) * 5)
    assert check.result is FAIL
    assert "from window 6 of 10 on they took 4.8% less than before" in check.evidence


def test_in_many_windows_the_place_is_that_of_the_window_and_not_of_its_group() -> None:
    check = found("windows_steady", window_s=(1.0,) * 63 + (1.1,) * 37)
    assert check.result is FAIL
    assert "from window 65 of 100 on" in check.evidence


@pytest.mark.parametrize("change", [0.0, 0.01, 0.029])
def test_a_certain_change_below_3_percent_is_left_alone(change: float) -> None:
    assert result((1.0,) * 5 + (1.0 + change,) * 5) is PASS


@pytest.mark.parametrize("at", [0, 3, 9])
@pytest.mark.parametrize("slower", [1.1, 2.0, 10.0])
def test_one_slow_window_is_a_burst_wherever_it_is(at: int, slower: float) -> None:
    series = [1.0] * 10
    series[at] = slower
    assert result(tuple(series)) is PASS


def test_two_slow_windows_at_the_end_are_a_burst() -> None:
    assert result((1.0,) * 8 + (1.3,) * 2) is PASS


@pytest.mark.parametrize(
    "disturbed",
    [
        {"noise": Noise(co_tenant_share=0.3, reasons=["other processes used 30 %"])},
        {"clocks": Clocks(source="counters", throttled=["hot"])},
        {"clocks": Clocks(source="cpufreq"), "clock_mhz": (3000.0,) * 5 + (2500.0,) * 5},
    ],
    ids=["co-tenants", "throttled", "clock fell"],
)
def test_on_a_disturbed_machine_nothing_is_concluded(disturbed: dict[str, object]) -> None:
    check = found("windows_steady", window_s=(1.0,) * 5 + (1.5,) * 5, **disturbed)
    assert (check.result, check.evidence) == (
        NA,
        "the second half of 10 windows took 50.0% longer than the first; the machine was "
        "disturbed, which may be why",
    )


def test_few_windows_say_nothing() -> None:
    check = found("windows_steady", window_s=(1.0,) * 4 + (2.0,) * 3)
    assert (check.result, check.evidence) == (NA, "7 windows, at least 8 are needed")


def test_the_truncation_rule_adds_a_look_from_20_windows_on() -> None:
    """Noise of 1 % hides a step of 5 % from the best split alone, and not from both together."""
    generator = random.Random(5)
    seen = [
        windows_steady(
            dataclasses.replace(
                HONEST, window_s=times(generator, 20, scatter=0.013, shape=throttled_at_half)
            )
        )
        for _ in range(100)
    ]
    by_mser = [text for result, text in seen if result is FAIL and text.startswith("MSER-5")]
    assert len(by_mser) > 10
    assert all("the second half took" in text for text in by_mser)


def test_shorter_series_must_show_a_pattern_more_clearly() -> None:
    shares = [needed_share(count) for count in range(FEWEST, MOST + 1)]
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (0.97, pytest.approx(0.8765))


@pytest.mark.parametrize("count", [8, 10, 19, 40])
@pytest.mark.parametrize(
    ("correlation", "most"), [(0.0, 0.002), (0.5, 0.004), (0.7, 0.01)], ids=["0", "0.5", "0.7"]
)
def test_noise_of_5_percent_that_no_monitor_saw_is_rarely_taken_for_a_pattern(
    count: int, correlation: float, most: float
) -> None:
    generator = random.Random(count)
    series = (times(generator, count, scatter=0.05, correlation=correlation) for _ in range(1000))
    assert failures(series) <= most


def test_noise_of_a_quiet_machine_is_never_taken_for_a_pattern() -> None:
    generator = random.Random(2)
    series = (times(generator, 10, scatter=0.008, correlation=0.7) for _ in range(1000))
    assert failures(series) <= 0.001


def test_bursts_are_rarely_taken_for_a_pattern() -> None:
    """Every window is slowed by up to a half with a chance of one in five."""
    generator = random.Random(3)

    def burst(_: float) -> float:
        return 1 + (generator.random() < 0.2) * generator.uniform(0.05, 0.5)

    series = (times(generator, 10, scatter=0.01, shape=burst) for _ in range(1000))
    assert failures(series) <= 0.01


@pytest.mark.parametrize(
    ("shape", "scatter", "least"),
    [
        (throttled_at_half, 0.004, 0.99),
        (throttled_at_half, 0.006, 0.80),
        (drifting, 0.003, 0.90),
        (drifting, 0.004, 0.75),
    ],
)
@pytest.mark.parametrize("count", [10, 19])
def test_on_a_quiet_machine_a_throttle_and_a_drift_are_seen(
    shape: Shape, scatter: float, least: float, count: int
) -> None:
    generator = random.Random(4)
    series = (
        times(generator, count, scatter=scatter, correlation=0.5, shape=shape) for _ in range(200)
    )
    assert failures(series) >= least


def test_windows_that_took_turns_with_another_launch_are_not_judged() -> None:
    throttled = (1.0,) * 10 + (1.2,) * 10
    assert found("windows_steady", window_s=throttled).result is FAIL
    check = found("windows_steady", window_s=throttled, in_turns=True)
    assert check.result is NA
    assert "cancels in their ratio" in check.evidence
