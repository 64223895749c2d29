"""What a record's page answers in plain sentences, word by word."""

from __future__ import annotations

from bench.cli.record_words import naive, training
from bench.results.record import (
    Diagnostics,
    Health,
    Launch,
    Record,
)
from tests.builders import a_case, a_record, launches_of

LEARNS = Health(
    steps=10,
    loss_first=6.912,
    loss_last=2.31,
    reference_loss_first=6.911,
    reference_loss_last=2.298,
    loss_gap=0.012,
    learned_share=0.997,
    first_loss_expected=6.908,
    gradient_norm=3.21,
    nonfinite_gradients=0,
    learns=True,
)
STANDS_STILL = LEARNS.model_copy(
    update={"learns": False, "reason": "its loss on one batch went from 6.906 to 6.906"}
)


def read_naively(samples_per_s: float, median_ms: float | None = None, together: int = 1) -> Record:
    """Return a record of 10 samples/s whose diagnostic pass read the naive clock too."""
    (launch,) = launches_of(10.0)
    found = Diagnostics(
        naive_samples_per_s=samples_per_s,
        naive_fenced_samples_per_s=10.0,
        naive_step_ms_median=median_ms,
    )
    read: Launch = launch.model_copy(update={"diagnostics": found})
    return a_record(a_case(knobs={"loader": {"batches_per_execution": together}}), launches=[read])


class TestNaive:
    def test_a_clock_that_sees_only_the_issuing_misleads_by_a_factor_and_why(self) -> None:
        assert naive(read_naively(50.0, 0.5, together=10)).text == (
            "Yes. A clock read after every step, which waits for nothing, says 50.00 samples a "
            "second: 5.0 times the 10.00 of the same step until the device had finished. It "
            "stops while work is still queued: to it a step is over once it has been issued. What "
            "is queued at the end weighs less the more steps it is read over. Its median step "
            "takes 0.5000 ms; a step takes 800.0 ms. 10 micro-batches make one graph here: 9 of "
            "them are only recorded, and the work of all starts with the last."
        )

    def test_of_single_graphs_nothing_is_said_about_several(self) -> None:
        assert "micro-batches" not in naive(read_naively(50.0, 0.5)).text

    def test_a_clock_that_agrees_does_not_mislead(self) -> None:
        assert naive(read_naively(10.2)).text == (
            "No. A clock read after every step, which waits for nothing, says 10.20 samples a "
            "second: 2.0 % above the 10.00 of the same step until the device had finished."
        )

    def test_where_no_pass_read_it_it_is_unknown(self) -> None:
        assert naive(a_record()).text == (
            "Unknown. The record holds no reading of such a clock (no diagnostic pass read it)."
        )


class TestTraining:
    def test_a_case_that_learns_tells_its_losses_beside_those_of_fp32(self) -> None:
        assert training(a_record(health=LEARNS)).text == (
            "Yes. In 10 updates on one fixed batch its loss went from 6.912 to 2.310, that of fp32 "
            "from 6.911 to 2.298 (gap +0.012 nats). It learned 100% of what fp32 learned. The "
            "first gradient has the norm 3.210; no gradient elements were NaN or infinite; a model "
            "that knows nothing has a loss of 6.908."
        )

    def test_a_doubt_stands_at_the_end(self) -> None:
        health = LEARNS.model_copy(update={"reason": "the first loss is 20"})
        assert training(a_record(health=health)).sentences[-1] == "The first loss is 20."

    def test_a_case_that_stands_still_says_no_and_why(self) -> None:
        health = STANDS_STILL.model_copy(update={"nonfinite_gradients": 3})
        assert training(a_record(health=health)).text == (
            "No. Its loss on one batch went from 6.906 to 6.906. The first gradient has the norm "
            "3.210; 3 gradient elements were NaN or infinite; a model that knows nothing has a "
            "loss of 6.908."
        )

    def test_what_cannot_be_told_says_why(self) -> None:
        health = Health(steps=10, reason="there is no fp32 reference to compare with")
        assert training(a_record(health=health)).text == (
            "Unknown. There is no fp32 reference to compare with."
        )

    def test_where_nobody_looked_it_says_that_it_was_switched_off(self) -> None:
        off = a_record(a_case(measure={"health": False}))
        assert training(off).text == "Unknown. The health pass was switched off."
        assert training(a_record()).text == "Unknown. The record does not tell."

    def test_inference_trains_nothing(self) -> None:
        record = a_record(a_case(knobs={"task": "infer"}))
        assert training(record).text == "Does not apply. Inference trains nothing."
