"""The judgement about training: each rule with the fault planted and absent, and its arithmetic."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.results.health import LEAST_FALL, HealthRun, judge, unknown

FP32 = [2.3, 2.0, 1.8, 1.3]


def a_run(*losses: float | None, **fields: Any) -> HealthRun:
    given: dict[str, Any] = {"gradient_norm": 6.0, "nonfinite_gradients": 0}
    given |= {"updates": len(losses) - 1} | fields
    return HealthRun(losses=list(losses), **given)


def test_a_case_that_follows_its_reference_learns() -> None:
    health = judge(a_run(2.31, 2.1, 1.8, 1.41), a_run(*FP32), 10)
    assert health.steps == 3
    assert (health.loss_first, health.loss_last) == (2.31, 1.41)
    assert (health.reference_loss_first, health.reference_loss_last) == (2.3, 1.3)
    assert health.loss_gap == pytest.approx(0.11)
    assert health.learned_share == pytest.approx((2.31 - 1.41) / (2.3 - 1.3))
    assert health.first_loss_expected == pytest.approx(2.302585093)
    assert (health.gradient_norm, health.nonfinite_gradients) == (6.0, 0)
    assert (health.learns, health.reason) == (True, None)


def test_the_reference_itself_has_no_gap() -> None:
    run = a_run(*FP32)
    health = judge(run, run, 10)
    assert (health.loss_gap, health.learned_share, health.learns) == (0.0, 1.0, True)
    assert health.reference_loss_last == health.loss_last


@pytest.mark.parametrize(("last", "learns"), [(1.81, False), (1.79, True)])
def test_half_of_the_references_fall_is_the_least(last: float, learns: bool) -> None:
    # The reference falls by 1 nat from 2.3: the border lies at 1.8.
    health = judge(a_run(2.3, 2.2, 2.1, last), a_run(*FP32), 10)
    assert health.learns is learns
    assert health.learned_share == pytest.approx(2.3 - last)


def test_a_frozen_case_is_told_with_both_losses() -> None:
    health = judge(a_run(2.3, 2.3, 2.3, 2.3), a_run(*FP32), 10)
    assert health.learned_share == 0.0
    assert health.loss_gap == pytest.approx(1.0)
    assert health.learns is False
    assert health.reason == (
        "its loss on one batch went from 2.3 to 2.3 in 3 updates, fp32's from 2.3 to 1.3: "
        "0% of what fp32 learns"
    )


def test_a_loss_that_rises_has_learned_less_than_nothing() -> None:
    health = judge(a_run(2.3, 2.4, 2.6, 2.8), a_run(*FP32), 10)
    assert health.learned_share == pytest.approx(-0.5)
    assert health.learns is False


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        (
            a_run(2.3, 2.0, None, None),
            "2 of 4 losses are not finite, the first after 2 updates",
        ),
        (
            a_run(*FP32, nonfinite_gradients=7, gradient_norm=None),
            "gradient elements that are NaN or infinite: 7",
        ),
        (
            a_run(2.3, 2.3, 2.3, 2.3, updates=0, gradient_norm=None, nonfinite_gradients=None),
            "the optimizer made 0 of 3 updates",
        ),
        (a_run(*FP32, updates=2), "the optimizer made 2 of 3 updates"),
        (
            a_run(2.3, 2.3, 2.3, 2.3, gradient_norm=0.0),
            "the first gradient is 0 in every parameter",
        ),
    ],
)
@pytest.mark.parametrize("reference", [a_run(*FP32), None])
def test_a_fault_of_its_own_needs_no_reference(
    own: HealthRun, reason: str, reference: HealthRun | None
) -> None:
    health = judge(own, reference, 10)
    assert health.learns is False
    assert health.reason == reason


def test_the_optimizer_that_is_never_called_has_a_share_of_0() -> None:
    health = judge(a_run(2.3, 2.3, updates=0), a_run(2.3, 1.3), 10)
    assert (health.learned_share, health.learns) == (0.0, False)


def test_a_last_loss_that_is_no_number_has_neither_gap_nor_share() -> None:
    health = judge(a_run(2.3, 2.0, 1.9, None), a_run(*FP32), 10)
    assert (health.loss_last, health.loss_gap, health.learned_share) == (None, None, None)


@pytest.mark.parametrize(("last", "known"), [(2.255, False), (2.253, True)])
def test_a_reference_that_hardly_moves_tells_nothing(last: float, known: bool) -> None:
    # 2 % of 2.3 is 0.046: the border lies at 2.254.
    health = judge(a_run(2.3, 2.3), a_run(2.3, last), 10)
    assert health.learns is (False if known else None)
    assert (health.learned_share is not None) is known
    if not known:
        assert health.reason == (
            "the fp32 reference's own loss went from 2.3 to 2.255 in 1 update, and it takes a "
            "fall by 2% to compare with: raise measure.health_steps"
        )


def test_rounding_to_bfloat16_alone_never_makes_a_case_look_as_if_it_did_not_learn() -> None:
    """The worst that rounding can do: the first loss down, the last one up, by 2**-8 of each."""
    rounding = 2.0**-8
    first, last = 2.3, 2.3 * (1 - LEAST_FALL) - 1e-9
    worst = a_run(first * (1 - rounding), last * (1 + rounding))
    health = judge(worst, a_run(first, last), 10)
    assert health.learned_share is not None
    assert health.learned_share > 0.6
    assert health.learns is True


@pytest.mark.parametrize("losses", [(2.3, None, 1.2), (2.3, 2.0, None), (2.3, 1.0, 60.0)])
def test_a_reference_that_diverges_tells_nothing(losses: tuple[float | None, ...]) -> None:
    health = judge(a_run(2.3, 2.0, 1.2), a_run(*losses), 10)
    assert (health.learns, health.learned_share) == (None, None)
    assert "the fp32 reference's own loss" in (health.reason or "")


def test_without_a_reference_it_is_unknown_and_says_why() -> None:
    health = judge(a_run(2.3, 1.0), None, 10, "the fp32 reference ended as oom")
    assert (health.learns, health.reason) == (None, "the fp32 reference ended as oom")
    assert (health.loss_first, health.loss_last) == (2.3, 1.0)
    assert (health.loss_gap, health.learned_share, health.reference_loss_last) == (None,) * 3


@pytest.mark.parametrize(("first", "odd"), [(1.6, False), (1.5, True), (3.4, False), (3.5, True)])
def test_a_first_loss_far_from_chance_is_a_remark(first: float, odd: bool) -> None:
    # ln(10) / 1.5 = 1.535 and ln(10) * 1.5 = 3.454.
    health = judge(a_run(first, first / 2), a_run(first, first / 2), 10)
    assert health.learns is True
    remark = f"the first loss is {first}, where a model that knows nothing has ln(10) = 2.303"
    assert health.reason == (remark if odd else None)


@pytest.mark.parametrize(
    ("norm", "odd"), [(6.0, False), (8.9, False), (4.1, False), (9.1, True), (3.9, True)]
)
def test_a_first_gradient_of_another_size_is_a_remark(norm: float, odd: bool) -> None:
    """AdamW learns as well from it."""
    health = judge(a_run(*FP32, gradient_norm=norm), a_run(*FP32), 10)
    assert health.learns is True
    assert health.reason == (
        f"the norm of the first gradient is {norm}, and 6 in fp32: something scales or clips "
        "gradients"
        if odd
        else None
    )


def test_of_a_first_gradient_that_is_not_known_nothing_is_told() -> None:
    health = judge(a_run(*FP32, gradient_norm=None), a_run(*FP32), 10)
    assert (health.learns, health.reason) == (True, None)


def test_a_fault_and_an_odd_first_loss_are_both_told() -> None:
    health = judge(a_run(9.0, 9.0, nonfinite_gradients=1), a_run(9.0, 1.0), 10)
    assert health.reason == (
        "gradient elements that are NaN or infinite: 1; the first loss is 9, where a model that "
        "knows nothing has ln(10) = 2.303"
    )


def test_what_never_ran_has_a_reason_and_no_figures() -> None:
    health = unknown(10, 1000, "the health pass ended as crash")
    assert (health.steps, health.learns, health.loss_first) == (10, None, None)
    assert health.first_loss_expected == pytest.approx(6.907755279)
    assert health.reason == "the health pass ended as crash"


def test_a_run_writes_what_is_not_finite_as_null() -> None:
    with pytest.raises(ValidationError, match="not finite is null"):
        a_run(2.3, math.nan)


positive = st.floats(0.01, 100.0)


@given(own=st.lists(positive, min_size=4, max_size=4), scale=st.floats(0.1, 10.0))
def test_the_verdict_does_not_depend_on_the_unit_of_the_loss(
    own: list[float], scale: float
) -> None:
    reference = [2.3, 2.0, 1.8, 1.3]
    once = judge(a_run(*own), a_run(*reference), 10)
    scaled = judge(
        a_run(*(loss * scale for loss in own)), a_run(*(loss * scale for loss in reference)), 10
    )
    assert once.learned_share is not None
    assert scaled.learned_share == pytest.approx(once.learned_share)
    if abs(once.learned_share - 0.5) > 1e-6:
        assert scaled.learns is once.learns
