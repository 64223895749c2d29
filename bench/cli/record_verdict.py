"""What a record's number is, and whether it can be believed: the first sentences of its page.

The audit decides; why a check matters is said in the check's own paragraph. This module knows no
layout.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.audit.checks import explain
from bench.cli.record_words import Answer, ended, sentence
from bench.results.checks import failed, judged
from bench.results.record import (
    MEASUREMENT_VERSION,
    CheckResult,
    Outcome,
    Record,
    Statistics,
    Verdict,
    Weight,
)
from bench.results.wording import figure, is_wide, one_line

_NO_DEVICE = "The device was simulated: this is no number of it"
_PRETENDED = "A test bed pretended it, and something else computed in its place."


def verdict(record: Record) -> Answer:
    """Return what the number is and whether it can be believed: the first words of the page."""
    if record.statistics is None:
        todo = (("what to do", ended(record.remedy)),) if record.remedy else ()
        return Answer("There is no number", tuple(_why_no_number(record)), todo)
    found = _of_number(record, record.statistics)
    if not record.simulated:
        return found
    return Answer(_NO_DEVICE, (_PRETENDED, *found.sentences), found.named)


def _of_number(record: Record, statistics: Statistics) -> Answer:
    """Return what a number is, whatever made it."""
    number = f"{_doing(record)} {figure(statistics.samples_per_s)} samples a second"
    if record.verdict is Verdict.SUSPECT or failed(record.launches, Weight.SUSPECT):
        return Answer(
            "Do not believe this number",
            tuple(_why_suspect(record, number)),
            tuple(_what_failed(record)),
        )
    if record.verdict is Verdict.NOISY:
        return Answer("Take this number as a rough one", tuple(_why_noisy(record, number)))
    return _measured(record, statistics, number)


def to_know(record: Record) -> list[tuple[str, str]]:
    """Return what the reader of a number that is right should know besides, under its name."""
    remarks = failed(record.launches, Weight.REMARK)
    if record.verdict is Verdict.MEASURED:
        remarks = [*failed(record.launches, Weight.NOISY), *remarks]
    return [("worth knowing", f"{check.name}: {ended(check.evidence[0])}") for check in remarks]


def explained_by_the_verdict(record: Record) -> str | None:
    """Return the check whose paragraph the first words of the page give; null: of none."""
    wrong = failed(record.launches, Weight.SUSPECT) if record.statistics is not None else []
    return wrong[0].name if wrong else None


def explanation(name: str) -> str:
    """Return the paragraph of a check; of one that is unknown here, that it is."""
    try:
        return explain(name)
    except KeyError:
        return "This version does not know the check: another version wrote the record."


def _doing(record: Record) -> str:
    ranks = f" in {record.processes} processes" if record.processes > 1 else ""
    if record.devices != record.processes:
        ranks = f" on {record.devices} devices of a process"
    device = one_line(record.device.model) if record.device else "an unnamed device"
    does = "trains" if record.requested.knobs.task == "train" else "runs"
    return f"it {does} on {record.backend}, {device}{ranks}, at"


def _measured(record: Record, statistics: Statistics, number: str) -> Answer:
    checks = judged(record.launches)
    remarks = [check.name for check in checks if check.result is CheckResult.FAIL]
    checked = any(check.result is CheckResult.PASS for check in checks)
    launches = statistics.launches
    times = "its one launch" if launches == 1 else f"all {launches} launches"
    found = f"every audit check that applies passed in {times}"
    if remarks:
        found = f"no audit check puts it in doubt (but see {_listed(remarks)})"
    sentences = [
        f"{sentence(number)[:-1]}, and {found if checked else 'no audit check looked at it'}."
    ]
    if launches == 1:
        sentences.append("One launch has no interval: how much it varies is unknown.")
    sentences += _doubts(statistics)
    if record.measurement < MEASUREMENT_VERSION:
        sentences.append("An older version measured it, whose audit knew fewer checks.")
    if record.verdict_reason:
        sentences.append(f"One thing is open: {ended(record.verdict_reason)}")
    if _unlearned(record):
        sentences.append("The speed is that of a training that does not train, see below.")
        return Answer("The speed is true, and the case does not learn", tuple(sentences))
    short = "This number can be believed" if checked else "Nothing checked this number"
    return Answer(short, tuple(sentences))


def _why_noisy(record: Record, number: str) -> Iterator[str]:
    yield sentence(f"{number}, while the machine was disturbed")
    disturbed = failed(record.launches, Weight.NOISY)
    if record.verdict_reason:
        yield sentence(record.verdict_reason)
    elif disturbed:
        yield sentence(disturbed[0].evidence[0])
    if record.statistics is not None:
        yield from _doubts(record.statistics)
    if _unlearned(record):
        yield "And the case does not learn, see below."
    yield "Free the machine and run it again; `bench doctor` shows what would disturb it."


def _why_suspect(record: Record, number: str) -> Iterator[str]:
    checks = failed(record.launches, Weight.SUSPECT)
    if checks:
        yield (
            f"The clock says that {number}, and the audit says that this may not be so: "
            f"{_listed([check.name for check in checks])} failed."
        )
    else:
        yield f"The clock says that {number}."
        yield sentence(record.verdict_reason or "the record does not say why it is suspect")
    if _unlearned(record):
        yield "And the case does not learn, see below."


def _what_failed(record: Record) -> Iterator[tuple[str, str]]:
    checks = failed(record.launches, Weight.SUSPECT)
    if not checks:
        return
    first = checks[0]
    where = f"{first.where}: " if first.where else ""
    yield "what must hold", explanation(first.name)
    yield "what was found", f"{where}{ended(first.evidence[0])}"
    if len(checks) > 1:
        yield "and the rest", "is explained below, under Audit."


def _unlearned(record: Record) -> bool:
    return record.health is not None and record.health.learns is False


def _why_no_number(record: Record) -> Iterator[str]:
    place = f" in the phase `{record.phase.value}`" if record.phase else ""
    words = {
        Outcome.UNSUPPORTED: f"{record.backend} cannot honour what the case asks for",
        Outcome.UNAVAILABLE: f"{record.backend} cannot be used on this machine",
        Outcome.OOM: f"The device ran out of memory{place}",
        Outcome.COMPILE_FAILED: f"The compiler failed{place}",
        Outcome.TIMEOUT: f"Its time was up{place}",
        Outcome.HANG: f"It stopped answering{place}",
        Outcome.NAN: f"Its loss is not a number{place}",
        Outcome.CRASH: f"It crashed{place}",
        Outcome.INTERRUPTED: f"It was interrupted{place}",
    }
    yield f"{words.get(record.outcome, f'It ended as {record.outcome}{place}')}."
    yield sentence(record.reason or "no reason is recorded")


def _doubts(statistics: Statistics) -> Iterator[str]:
    if statistics.precision_reached is False:
        yield "The interval is wider than was asked for."
    if is_wide(statistics.samples_per_s_low, statistics.samples_per_s_high):
        yield "The ends of its interval are more than 10-fold apart: it is too uncertain to use."


def _listed(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
