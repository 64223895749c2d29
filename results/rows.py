"""One row a case: what the newest record of each says, and how it compares to its first row.

A ratio is given only where it means something; elsewhere the row says why there is none. This
module knows records and their identities, and nothing of how a table looks.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from bench.results.record import (
    CheckResult,
    Launch,
    Outcome,
    Publication,
    Record,
    Source,
    Verdict,
    Weight,
    moment,
)
from bench.results.statistics import paired_speedup
from bench.results.store import Stored, printable
from bench.scenarios.identity import tagged_fields, work_difference
from bench.scenarios.schema import Identity, Knobs, Strict


class Row(Strict):
    """A line of the table; null is unknown or does not apply."""

    scenario: str
    case: str
    backend: str
    device: str | None = None
    processes: int
    outcome: str | None = None
    """Null for a published claim: nothing ran."""
    reason: str | None = None
    """Why there is no number."""
    verdict: str | None = None
    audit: str | None = None
    """`pass`, or `fail: ` with the names of the checks; null: nothing was checked."""
    samples_per_s: float | None = None
    samples_per_s_low: float | None = None
    samples_per_s_high: float | None = None
    speedup: float | None = None
    """Over the scenario's first row of the same session and backend."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    speedup_noisy: bool = False
    """One of the two rows behind the ratio is noisy."""
    speedup_reason: str | None = None
    """Why a row with a number has no speed-up."""
    step_ms: float | None = None
    launches: int | None = None
    peak_memory_bytes: int | None = None
    compile_s: float | None = None
    """Of the first launch: the same figure as `compile_cold_s`."""
    compile_cold_s: float | None = None
    compile_warm_s: float | None = None
    """Mean of the later launches that found the run's compile cache filled."""
    loader_wait_share: float | None = None
    settings: str = ""
    """Knobs that differ from their defaults; for a claim, the source's settings."""
    remark: str | None = None
    verdict_reason: str | None = None
    remedy: str | None = None
    precision_reached: bool | None = None
    source: str | None = None
    """Where a claim was published."""
    session: str | None = None
    position: int | None = None
    created: str | None = None
    record: str | None = None
    """Path of the record's file, as it can be printed."""
    knobs: dict[str, JsonValue] = {}
    """Every knob by dotted name; empty for a claim."""


def rows_of(stored: Iterable[Stored]) -> list[Row]:
    """Return one row per series, scenario and case, from the newest record of each.

    Scenarios with the newest session come first; within a scenario, newer sessions before older
    ones, and within a session the scenario's own order.
    """
    newest: dict[tuple[str, str, str], _Dated] = {}
    firsts: dict[tuple[str, str, str], _Dated] = {}
    for item in stored:
        dated, record = _Dated(moment(item.record.created), item), item.record
        asked = record.requested
        _keep_newer(newest, (record.keys.series, asked.scenario, asked.case), dated)
        if record.position == 0:
            _keep_newer(firsts, (record.session, record.backend, asked.scenario), dated)
    shown = _without_outdated_absences(list(newest.values()))
    references = {key: dated.stored.record for key, dated in firsts.items()}
    return [_row(dated.stored, references) for dated in _in_order(shown)]


def rows_of_claims(publications: Iterable[Publication]) -> list[Row]:
    """Return the rows of published numbers: never compared, never without their source."""
    return [
        Row(
            scenario=claim.scenario,
            case=claim.case,
            backend=claim.backend,
            device=claim.device,
            processes=claim.processes,
            reason="the source gives no number" if claim.samples_per_s is None else None,
            verdict=Verdict.CLAIMED.value,
            samples_per_s=claim.samples_per_s,
            speedup_reason="a published claim is never compared by ratio",
            settings=claim.settings,
            remark=claim.remark,
            source=_citation(publication.source),
        )
        for publication in publications
        for claim in publication.claims
    ]


def beside(rows: Sequence[Row], claims: Sequence[Row]) -> list[Row]:
    """Return both, each claim after what was measured of its scenario."""
    both = [*rows, *claims]
    order = {name: place for place, name in enumerate(dict.fromkeys(row.scenario for row in both))}
    return sorted(both, key=lambda row: order[row.scenario])


@dataclass(frozen=True)
class _Dated:
    when: dt.datetime
    stored: Stored

    @property
    def order(self) -> tuple[dt.datetime, str]:
        return self.when, self.stored.record.id


@dataclass(frozen=True)
class _Speedup:
    value: float | None = None
    low: float | None = None
    high: float | None = None
    noisy: bool = False
    reason: str | None = None


def _keep_newer(
    kept: dict[tuple[str, str, str], _Dated], key: tuple[str, str, str], dated: _Dated
) -> None:
    other = kept.get(key)
    if other is None or other.order < dated.order:
        kept[key] = dated


def _without_outdated_absences(dated: Sequence[_Dated]) -> list[_Dated]:
    # Where a device was missing no series could be named; what ran there later answers the row.
    def place(item: _Dated) -> tuple[str, str, str, int]:
        record = item.stored.record
        asked = record.requested
        return asked.scenario, asked.case, record.backend, record.processes

    latest: dict[tuple[str, str, str, int], dt.datetime] = {}
    for item in dated:
        latest[place(item)] = max(item.when, latest.get(place(item), item.when))
    return [
        item
        for item in dated
        if item.stored.record.device is not None or item.when == latest[place(item)]
    ]


def _in_order(dated: Sequence[_Dated]) -> list[_Dated]:
    sessions: dict[str, dt.datetime] = {}
    scenarios: dict[str, dt.datetime] = {}
    for item in dated:
        record = item.stored.record
        for times, name in ((sessions, record.session), (scenarios, record.requested.scenario)):
            times[name] = max(item.when, times.get(name, item.when))

    def place(item: _Dated) -> tuple[float, str, float, str, str, int, str]:
        record = item.stored.record
        scenario = record.requested.scenario
        return (
            -scenarios[scenario].timestamp(),
            scenario,
            -sessions[record.session].timestamp(),
            record.session,
            record.backend,
            record.position,
            record.requested.case,
        )

    return sorted(dated, key=place)


def _row(stored: Stored, references: dict[tuple[str, str, str], Record]) -> Row:
    record, statistics = stored.record, stored.record.statistics
    speedup = _speedup(record, references)
    cold, warm = _compile_s(record.launches)
    return Row(
        scenario=record.requested.scenario,
        case=record.requested.case,
        backend=record.backend,
        device=record.device.model if record.device else None,
        processes=record.processes,
        outcome=record.outcome.value,
        reason=record.reason,
        verdict=record.verdict.value if record.verdict else None,
        audit=_audit(record.launches),
        samples_per_s=statistics.samples_per_s if statistics else None,
        samples_per_s_low=statistics.samples_per_s_low if statistics else None,
        samples_per_s_high=statistics.samples_per_s_high if statistics else None,
        speedup=speedup.value,
        speedup_low=speedup.low,
        speedup_high=speedup.high,
        speedup_noisy=speedup.noisy,
        speedup_reason=speedup.reason,
        step_ms=statistics.step_ms if statistics else None,
        launches=len(record.launches),
        peak_memory_bytes=_largest(launch.peak_memory_bytes for launch in record.launches),
        compile_s=cold,
        compile_cold_s=cold,
        compile_warm_s=warm,
        loader_wait_share=_loader_wait_share(record.launches),
        settings=_settings(record.requested.knobs),
        remark=record.requested.remark,
        verdict_reason=record.verdict_reason,
        remedy=record.remedy,
        precision_reached=statistics.precision_reached if statistics else None,
        session=record.session,
        position=record.position,
        created=record.created,
        record=printable(stored.location),
        knobs={name: value for name, _, value in tagged_fields(record.requested.knobs)},
    )


def _speedup(record: Record, references: dict[tuple[str, str, str], Record]) -> _Speedup:
    if record.outcome is not Outcome.OK:
        return _Speedup()
    first = _reference(record, references)
    if first is None:
        return _Speedup(reason="the first row was not run in the same session")
    obstacle = _obstacle(record, first)
    if obstacle is not None:
        return _Speedup(reason=obstacle)
    noisy = Verdict.NOISY in (record.verdict, first.verdict)
    if first.id == record.id:
        return _Speedup(1.0, noisy=noisy)
    interval = paired_speedup(first.launches, record.launches)
    if interval is None:
        return _Speedup(reason="no round was shared with the first row")
    return _Speedup(interval.estimate, interval.low, interval.high, noisy)


def _obstacle(record: Record, first: Record) -> str | None:
    if first.outcome is not Outcome.OK:
        return "the first row has no number"
    if record.verdict is Verdict.SUSPECT:
        return "this row is suspect"
    if first.verdict is Verdict.SUSPECT:
        return "the first row is suspect"
    if first.keys.work != record.keys.work:
        fields = work_difference(first.requested.knobs, record.requested.knobs)
        return f"other work than the first row: {', '.join(fields)}"
    return None


def _reference(record: Record, references: dict[tuple[str, str, str], Record]) -> Record | None:
    # A resumed run may hold launches of the session that was interrupted: its first row serves too.
    sessions = [record.session, *(launch.session for launch in record.launches)]
    for session in dict.fromkeys(sessions):
        first = references.get((session, record.backend, record.requested.scenario))
        if first is not None:
            return first
    return None


def _audit(launches: Sequence[Launch]) -> str | None:
    checks = [check for launch in launches for check in launch.audit]
    failed = dict.fromkeys(
        check.name
        for check in checks
        if check.result is CheckResult.FAIL and check.weight is Weight.SUSPECT
    )
    if failed:
        return f"fail: {','.join(failed)}"
    return "pass" if any(check.result is CheckResult.PASS for check in checks) else None


def _compile_s(launches: Sequence[Launch]) -> tuple[float | None, float | None]:
    cold = next((one.compilation.seconds for one in launches if one.index == 0), None)
    warm = [
        one.compilation.seconds
        for one in launches
        if one.index > 0 and one.compilation.cache == "warm" and one.compilation.seconds is not None
    ]
    return cold, math.fsum(warm) / len(warm) if warm else None


def _loader_wait_share(launches: Sequence[Launch]) -> float | None:
    shares = (one.diagnostics.loader_wait_share for one in launches if one.diagnostics)
    return next((share for share in shares if share is not None), None)


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _settings(knobs: Knobs) -> str:
    defaults = {name: value for name, _, value in tagged_fields(_DEFAULTS[knobs.task])}
    return ", ".join(
        f"{name}={value}"
        for name, tag, value in tagged_fields(knobs)
        if tag is not Identity.PROTOCOL and value != defaults[name]
    )


# `infer` leaves out what only training has; its task is still worth a word.
_DEFAULTS = {
    "train": Knobs(),
    "infer": Knobs(task="infer").model_copy(update={"task": "train"}),
}


def _citation(source: Source) -> str:
    cited = f'{source.author}, "{source.title}", {source.date}: {source.locator}'
    return cited if source.url is None else f"{cited} ({source.url})"
