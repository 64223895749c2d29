"""A loader that holds training back, one that does not, and witnesses that disagree."""

from __future__ import annotations

from typing import Any

import pytest

from bench.results.record import Check, CheckResult, Diagnostics, Noise, Weight
from tests.audit.honest import FAIL, NA, PASS, found, knobs


def loader(share: float | None, twin: float | None, **changes: Any) -> Check:
    """Return what is found of a launch of 100 samples/s with this share and this twin."""
    gaps = [] if twin is None else [twin / 100.0 - 1] * 3
    diagnosed = Diagnostics(
        loader_wait_share=share, device_twin_samples_per_s=twin, device_twin_gaps=gaps
    )
    eager = {"executions": None, "expected_executions": None}
    return found(
        "loader_bound", **{"diagnostics": diagnosed, "samples_per_s": 100.0, **eager, **changes}
    )


def test_a_loader_that_is_waited_for_and_missed_by_the_twin_is_a_remark() -> None:
    check = loader(0.4, 167.0)
    assert (check.result, check.weight) == (FAIL, Weight.REMARK)
    assert check.evidence == (
        "40.0% of the time was spent in the loader's next(); with batches that lie on the device, "
        "training is 67% faster: the loader holds it back"
    )


@pytest.mark.parametrize(
    ("share", "twin", "result"),
    [
        (0.02, 102.0, PASS),
        (0.05, 124.0, PASS),
        (0.06, 109.0, PASS),
        (0.06, 112.0, FAIL),
        (0.01, 126.0, FAIL),
        (0.30, 96.0, PASS),
    ],
)
def test_it_takes_both_witnesses_or_a_twin_that_is_much_faster(
    share: float, twin: float, result: CheckResult
) -> None:
    assert loader(share, twin).result is result


def test_waiting_that_costs_nothing_is_told_in_words() -> None:
    check = loader(0.5, 101.0)
    assert check.result is PASS
    assert "1% faster: the two disagree" in check.evidence
    assert "busy while its host waits" in check.evidence


def test_a_loader_that_costs_without_being_waited_for_is_told_in_words() -> None:
    check = loader(0.01, 140.0)
    assert check.result is FAIL
    assert "holds it back without letting it wait" in check.evidence


def test_on_a_disturbed_machine_the_twin_alone_proves_nothing() -> None:
    noisy = Noise(co_tenant_share=0.5, reasons=["others"])
    check = loader(0.01, 140.0, noise=noisy)
    assert check.result is PASS
    assert "40% faster, but the machine was disturbed" in check.evidence
    assert loader(0.4, 167.0, noise=noisy).result is FAIL


def test_where_next_waits_for_the_device_only_the_twin_is_heard() -> None:
    graphs = {"executions": 60, "expected_executions": 60}
    assert loader(0.7, 115.0, **graphs).result is PASS
    check = loader(0.7, 140.0, **graphs)
    assert check.result is FAIL
    assert check.evidence == (
        "70.0% of the time was spent in the loader's next(), where this device is waited for too; "
        "with batches that lie on the device, training is 40% faster: the loader holds it back"
    )
    noisy = Noise(co_tenant_share=0.5, reasons=["others"])
    assert loader(0.7, 140.0, noise=noisy, **graphs).result is PASS


def test_what_was_not_looked_at_is_not_judged() -> None:
    assert found("loader_bound", diagnostics=None).result is NA
    assert loader(None, None).result is NA
    assert loader(0.4, None).result is NA
    assert loader(None, None, knobs=knobs(data={"source": "device"})).result is NA


def test_every_block_of_a_lone_twin_must_be_faster() -> None:
    def among(share: float, gaps: list[float]) -> CheckResult:
        diagnosed = Diagnostics(loader_wait_share=share, device_twin_gaps=gaps)
        return found(
            "loader_bound", diagnostics=diagnosed, executions=None, expected_executions=None
        ).result

    assert among(0.01, [0.5, 0.4, 0.3]) is FAIL
    assert among(0.01, [0.5, 0.4, 0.2]) is PASS
    assert among(0.40, [0.5, 0.4, 0.01]) is FAIL
    assert among(0.40, [0.5, 0.4, -0.01]) is PASS
