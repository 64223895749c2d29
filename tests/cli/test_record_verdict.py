"""The first sentences of a record's page, word by word: whether its number can be believed."""

from __future__ import annotations

from typing import Any

import pytest

from bench.audit.checks import CHECKS, explain
from bench.cli.record_verdict import to_know, verdict
from bench.results.record import (
    Check,
    CheckResult,
    Device,
    Health,
    Outcome,
    Phase,
    Record,
    Verdict,
    Weight,
)
from tests.builders import a_case, a_launch, a_record, launches_of

STANDS_STILL = Health(steps=10, learns=False, reason="its loss went from 6.906 to 6.906")


def failing(
    name: str = "fence_waits", weight: Weight = Weight.SUSPECT, evidence: str = "9 % was left"
) -> Check:
    return Check(name=name, result=CheckResult.FAIL, evidence=evidence, weight=weight)


def passing(name: str = "fence_waits") -> Check:
    return Check(name=name, result=CheckResult.PASS, evidence="0.1 %")


def audited(*audits: list[Check], **fields: Any) -> Record:
    """Return a record whose launches have these audits, each at 10 samples/s."""
    launches = [a_launch(index=i, window_s=[[0.8]], audit=audit) for i, audit in enumerate(audits)]
    return a_record(launches=launches, **fields)


class TestVerdict:
    def test_a_measured_number_can_be_believed(self) -> None:
        answer = verdict(audited([passing()], [passing()]))
        assert answer.short == "This number can be believed"
        assert answer.sentences == (
            "It trains on cpu, Test CPU, at 10.00 samples a second, and every audit check that "
            "applies passed in all 2 launches.",
        )
        assert answer.named == ()

    def test_inference_runs_and_several_processes_are_named(self) -> None:
        record = a_record(
            a_case(knobs={"task": "infer", "processes": 2}),
            launches=[a_launch(window_s=[[0.8], [0.8]])],
            backend="xla",
            device=Device(model="Chip", count=2),
        )
        assert verdict(record).sentences == (
            "It runs on xla, Chip in 2 processes, at 10.00 samples a second, and every audit check "
            "that applies passed in its one launch.",
            "One launch has no interval: how much it varies is unknown.",
        )

    def test_what_is_open_is_said(self) -> None:
        record = audited(
            [passing()],
            [passing()],
            verdict_reason="in 1 of 2 launches it is unknown whether the machine was disturbed",
        )
        assert verdict(record).sentences[1:] == (
            "One thing is open: in 1 of 2 launches it is unknown whether the machine was "
            "disturbed.",
        )

    def test_a_number_that_nothing_checked_is_said_so(self) -> None:
        answer = verdict(audited([], []))
        assert answer.short == "Nothing checked this number"
        assert answer.sentences[0].endswith("samples a second, and no audit check looked at it.")

    def test_of_an_older_version_that_its_audit_knew_less(self) -> None:
        record = audited([passing()], [passing()]).model_copy(update={"measurement": 1})
        assert verdict(record).sentences[1:] == (
            "An older version measured it, whose audit knew fewer checks.",
        )

    def test_an_interval_that_tells_nothing_is_said_so(self) -> None:
        record = a_record(launches=launches_of(1.0, 150.0))
        assert verdict(record).sentences[1:] == (
            "The ends of its interval are more than 10-fold apart: it is too uncertain to use.",
        )
        record = a_record(
            a_case(measure={"precision_target": 0.1}), launches=launches_of(10.0, 10.5, 11.0)
        )
        assert verdict(record).sentences[1:] == ("The interval is wider than was asked for.",)

    def test_a_suspect_number_is_not_to_be_believed_in_the_words_of_the_check(self) -> None:
        record = audited(
            [passing()],
            [failing(evidence="9 % was left"), failing("steady_state")],
            [failing(evidence="8 % was left")],
            verdict=Verdict.SUSPECT,
            verdict_reason="fence_waits: 9 % was left",
        )
        answer = verdict(record)
        assert answer.short == "Do not believe this number"
        assert answer.sentences == (
            "The clock says that it trains on cpu, Test CPU, at 10.00 samples a second, and the "
            "audit says that this may not be so: `fence_waits` and `steady_state` failed.",
        )
        assert answer.named == (
            ("what must hold", explain("fence_waits")),
            ("what was found", "in 2 of 3 launches: 9 % was left."),
            ("and the rest", "is explained below, under Audit."),
        )

    @pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
    def test_every_check_has_a_paragraph_that_ends_as_one(self, check: str) -> None:
        record = audited([failing(check)], verdict=Verdict.SUSPECT)
        found = dict(verdict(record).named)
        assert found["what must hold"] == explain(check)
        assert found["what must hold"].endswith((".", ")"))
        assert found["what was found"] == "9 % was left."

    def test_a_suspect_number_without_a_check_gives_the_reason_it_has(self) -> None:
        record = audited([passing()], verdict=Verdict.SUSPECT, verdict_reason="fence_waits: 9 %")
        assert verdict(record).sentences == (
            "The clock says that it trains on cpu, Test CPU, at 10.00 samples a second.",
            "fence_waits: 9 %.",
        )

    def test_a_noisy_number_is_a_rough_one(self) -> None:
        disturbed = failing("machine_quiet", Weight.NOISY, "others used 12 %")
        record = audited(
            [disturbed],
            [passing()],
            verdict=Verdict.NOISY,
            verdict_reason="1 of 2 launches: others used 12 %",
        )
        answer = verdict(record)
        assert answer.short == "Take this number as a rough one"
        assert answer.sentences == (
            "It trains on cpu, Test CPU, at 10.00 samples a second, while the machine was "
            "disturbed.",
            "1 of 2 launches: others used 12 %.",
            "Free the machine and run it again; `bench doctor` shows what would disturb it.",
        )
        silent = record.model_copy(update={"verdict_reason": None})
        assert verdict(silent).sentences[1] == "Others used 12 %."

    def test_a_true_speed_of_a_training_that_does_not_train_is_said_so(self) -> None:
        answer = verdict(audited([passing()], [passing()], health=STANDS_STILL))
        assert answer.short == "The speed is true, and the case does not learn"
        assert answer.sentences[-1] == (
            "The speed is that of a training that does not train, see below."
        )

    @pytest.mark.parametrize("worth", [Verdict.NOISY, Verdict.SUSPECT])
    def test_a_doubtful_number_that_does_not_learn_says_both(self, worth: Verdict) -> None:
        record = audited([passing()], verdict=worth, verdict_reason="so", health=STANDS_STILL)
        assert "And the case does not learn, see below." in verdict(record).sentences

    @pytest.mark.parametrize(
        ("outcome", "first"),
        [
            (Outcome.OOM, "The device ran out of memory in the phase `warm_up`."),
            (Outcome.HANG, "It stopped answering in the phase `warm_up`."),
            (Outcome.UNSUPPORTED, "cpu cannot honour what the case asks for."),
            (Outcome.UNAVAILABLE, "cpu cannot be used on this machine."),
        ],
    )
    def test_where_there_is_no_number_it_says_why_and_what_to_do(
        self, outcome: Outcome, first: str
    ) -> None:
        record = a_record(
            outcome=outcome, phase=Phase.WARM_UP, reason="17 GiB asked", remedy="halve the batch"
        )
        answer = verdict(record)
        assert answer.short == "There is no number"
        assert answer.sentences == (first, "17 GiB asked.")
        assert answer.named == (("what to do", "halve the batch."),)

    @pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.OK])
    def test_every_outcome_has_words_of_its_own(self, outcome: Outcome) -> None:
        assert "It ended as" not in verdict(a_record(outcome=outcome)).sentences[0]


class TestToKnow:
    def test_remarks_are_worth_knowing_with_their_figures(self) -> None:
        remark = failing("loader_bound", Weight.REMARK, "43 % of the time")
        record = audited([passing(), remark], [passing()])
        assert to_know(record) == [("worth knowing", "loader_bound: 43 % of the time.")]
        assert (
            "no audit check puts it in doubt (but see `loader_bound`)"
            in (verdict(record).sentences[0])
        )

    def test_noise_is_one_where_the_verdict_does_not_tell_of_it(self) -> None:
        noise = failing("clocks_held", Weight.NOISY, "12 % below")
        assert to_know(audited([noise])) == [("worth knowing", "clocks_held: 12 % below.")]
        assert to_know(audited([noise], verdict=Verdict.NOISY, verdict_reason="so")) == []
