"""Holding records against each other: which belong together, and what comes of it.

Two records are compared if they do the same work and were measured by the same method: pair by pair
where their launches took turns within rounds, else one run after the other. This module knows
records and calls the arithmetic of `comparison`; it does not know how an answer is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pydantic import JsonValue

from bench.results import comparison
from bench.results.checks import disturbance
from bench.results.compared import Comparison, PairRow, Side
from bench.results.comparison import ComparisonVerdict, Pair, Ratio, Suggestion
from bench.results.record import Launch, Outcome, Record, Verdict, moment
from bench.results.store import Stored, printable
from bench.scenarios.identity import fields_of, work_difference
from bench.scenarios.schema import Identity, Knobs

_Key = tuple[str, str, str]
_REMARKS = {
    Suggestion.LOOKS_SAME: "the whole interval lies within the threshold",
    Suggestion.LOOKS_FASTER: "or the machine was faster: `bench ab` tells the two apart",
    Suggestion.LOOKS_SLOWER: "or the machine was slower: `bench ab` tells the two apart",
    Suggestion.CANNOT_TELL: "a change that matters may be there or not: raise --launches",
    Suggestion.NO_INTERVAL: "one launch has none: raise --launches",
}


class MatchError(ValueError):
    """Two records that must not be divided by one another: which field forbids it."""


def compare(a: Stored, b: Stored, threshold_pct: float) -> Comparison:
    """Compare two records: pair by pair where they took turns, else one after the other.

    Raises:
        MatchError: they do different work, or were measured by different methods.
    """
    refusal = refusal_of(a.record, b.record)
    if refusal is not None:
        raise MatchError(refusal)
    if len(_shared_rounds(a.record.launches, b.record.launches)) > 1:
        return paired(a, b, threshold_pct)
    obstacle = obstacle_of(a.record, b.record)
    if obstacle is not None:
        return incomparable(a, b, threshold_pct, obstacle)
    return _sequential(a, b, threshold_pct)


def paired(
    a: Stored | None, b: Stored | None, threshold_pct: float, obstacle: str | None = None
) -> Comparison:
    """Compare two records by the rounds that both took part in.

    Args:
        a: The side that the other is measured by; null: it left no record.
        b: The side that may be faster or slower; null: it left no record.
        threshold_pct: The practical threshold. Unit: percent.
        obstacle: Why the pairs cannot be relied on, beyond what the records tell.
    """
    shared = _shared_rounds(_launches(a), _launches(b))
    pairs = [_pair(mine, other) for mine, other in shared]
    found = comparison.decide(
        pairs, threshold_pct=threshold_pct, obstacle=obstacle or _obstacle(a, b)
    )
    rows = [
        PairRow(
            session=mine.session,
            round=mine.round,
            a_samples_per_s=pair.a,
            b_samples_per_s=pair.b,
            ratio=pair.ratio,
            disturbed=pair.disturbed,
        )
        for (mine, _), pair in zip(shared, pairs, strict=True)
    ]
    return _with_ratio(
        Comparison(
            design="paired",
            verdict=found.verdict.value,
            reason=found.reason,
            threshold_pct=threshold_pct,
            detectable_pct=found.detectable_pct,
            disturbed=found.disturbed,
            pairs=rows,
        ),
        found.ratio,
        a,
        b,
    )


def incomparable(
    a: Stored | None, b: Stored | None, threshold_pct: float, reason: str
) -> Comparison:
    """Return the row of two records that are not compared, or of one without the other."""
    numbers = [item for item in (a, b) if item is not None and item.record.statistics is not None]
    return Comparison(
        design=None,
        verdict=ComparisonVerdict.INVALID.value if a and b and numbers else None,
        reason=reason,
        threshold_pct=threshold_pct,
        differences=_differences(a.record, b.record) if a and b else [],
        a=None if a is None else _side(a),
        b=None if b is None else _side(b),
    )


def compare_folders(
    a: Iterable[Stored], b: Iterable[Stored], threshold_pct: float
) -> list[Comparison]:
    """Compare the newest of these records of every case that both hold; list what only one holds.

    Cases belong together if series, scenario and case are the same, and also if each side has that
    scenario and case exactly once: then their work, settings or devices differ, and the row says in
    what. Rows come in the order of A, then what only B holds.
    """
    left, theirs = _newest(a), _newest(b)
    right = dict(theirs)
    partners = {key: right.pop(key) for key in left if key in right}
    mine, others = Counter(key[:2] for key in left), Counter(key[:2] for key in theirs)
    for key in left:
        name = key[:2]
        if key not in partners and mine[name] == others[name] == 1:
            partners[key] = right.pop(next(other for other in right if other[:2] == name))
    rows = [_row(item, partners.get(key), threshold_pct) for key, item in left.items()]
    return rows + [_row(None, item, threshold_pct) for item in right.values()]


def refusal_of(a: Record, b: Record) -> str | None:
    """Return why two numbers must not be divided by one another; null: they may."""
    different = other_work(a.requested.knobs, b.requested.knobs)
    if different is not None:
        return f"A and B do different work: {different}"
    if a.measurement != b.measurement:
        return (
            f"A was measured by method {a.measurement} and B by method {b.measurement} (field "
            "measurement): measure the older one again"
        )
    if a.statistics is not None and b.statistics is not None and a.simulated != b.simulated:
        return one_simulated("A" if a.simulated else "B")
    return None


def one_simulated(name: str) -> str:
    """Return why a side whose device was pretended is not held against one that is real."""
    return f"the device of {name} is simulated, and the other is real: no ratio tells of either"


def other_work(a: Knobs, b: Knobs) -> str | None:
    """Return in which fields two cases do different work, with their values; null: in none."""
    mine, other = fields_of(a, Identity.WORK), fields_of(b, Identity.WORK)
    return (
        "; ".join(
            f"{name} is {_word(mine[name])} in A and {_word(other[name])} in B"
            for name in work_difference(a, b)
        )
        or None
    )


def obstacle_of(a: Record, b: Record) -> str | None:
    """Return why nothing can rest on the two records' numbers; null: something can."""
    for name, record in (("A", a), ("B", b)):
        if record.outcome is not Outcome.OK:
            return f"{name} has no number ({record.outcome}): {record.reason}"
    for name, record in (("A", a), ("B", b)):
        if record.verdict is Verdict.SUSPECT:
            return f"{name} is suspect: {record.verdict_reason}"
    return None


def pairs_of(a: Sequence[Launch], b: Sequence[Launch]) -> list[Pair]:
    """Return the pairs of launches that share a round of a session, in order."""
    return [_pair(mine, other) for mine, other in _shared_rounds(a, b)]


def _shared_rounds(a: Sequence[Launch], b: Sequence[Launch]) -> list[tuple[Launch, Launch]]:
    ours = {(launch.session, launch.round): launch for launch in a}
    theirs = {(launch.session, launch.round): launch for launch in b}
    return [(ours[key], theirs[key]) for key in sorted(ours.keys() & theirs.keys())]


def _pair(a: Launch, b: Launch) -> Pair:
    disturbed = any(disturbance(launch) is not None for launch in (a, b))
    return Pair(a.samples_per_s, b.samples_per_s, disturbed)


def _launches(stored: Stored | None) -> Sequence[Launch]:
    return [] if stored is None else stored.record.launches


def _obstacle(a: Stored | None, b: Stored | None) -> str | None:
    if a is None or b is None:
        return f"{'A' if a is None else 'B'} left no record"
    return obstacle_of(a.record, b.record)


def _sequential(a: Stored, b: Stored, threshold_pct: float) -> Comparison:
    ratio = comparison.welch(
        [launch.samples_per_s for launch in a.record.launches],
        [launch.samples_per_s for launch in b.record.launches],
    )
    suggestion = comparison.suggest(ratio, threshold_pct)
    return _with_ratio(
        Comparison(
            design="sequential",
            verdict=suggestion.value,
            reason=_REMARKS[suggestion],
            p=ratio.p,
            threshold_pct=threshold_pct,
            detectable_pct=comparison.detectable_pct(ratio, threshold_pct),
        ),
        ratio,
        a,
        b,
    )


def _with_ratio(
    found: Comparison, ratio: Ratio | None, a: Stored | None, b: Stored | None
) -> Comparison:
    both: dict[str, object] = {
        "noisy": any(item is not None and item.record.verdict is Verdict.NOISY for item in (a, b)),
        "differences": _differences(a.record, b.record) if a and b else [],
        "a": None if a is None else _side(a),
        "b": None if b is None else _side(b),
    }
    if ratio is not None:
        both |= {
            "ratio": ratio.estimate,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "method": ratio.method,
            "degrees_of_freedom": ratio.degrees_of_freedom,
        }
    found = found.model_copy(update=both)
    if not found.breaks_training or found.b is None:
        return found
    reason = f"B does not learn ({found.b.learns_reason}), so its speed is worth nothing"
    return found.model_copy(update={"reason": f"{reason}; {found.reason}"})


def _row(a: Stored | None, b: Stored | None, threshold_pct: float) -> Comparison:
    if a is None or b is None:
        return incomparable(a, b, threshold_pct, "only in A" if b is None else "only in B")
    try:
        return compare(a, b, threshold_pct)
    except MatchError as error:
        return incomparable(a, b, threshold_pct, str(error))


def _newest(stored: Iterable[Stored]) -> dict[_Key, Stored]:
    """Return the newest record of every scenario, case and series, in the scenarios' own order."""
    kept: dict[_Key, Stored] = {}
    for item in stored:
        record = item.record
        key = (record.requested.scenario, record.requested.case, record.keys.series)
        if key not in kept or _age(kept[key]) < _age(item):
            kept[key] = item
    order = sorted(kept, key=lambda key: (key[0], kept[key].record.position, key))
    return {key: kept[key] for key in order}


def _age(stored: Stored) -> tuple[float, str]:
    return moment(stored.record.created).timestamp(), stored.record.id


def _side(stored: Stored) -> Side:
    record = stored.record
    return Side(
        scenario=record.requested.scenario,
        case=record.requested.case,
        backend=record.backend,
        device=None if record.device is None else record.device.model,
        simulated=record.simulated,
        processes=record.processes,
        outcome=record.outcome.value,
        verdict=None if record.verdict is None else record.verdict.value,
        samples_per_s=None if record.statistics is None else record.statistics.samples_per_s,
        launches=len(record.launches),
        learns=None if record.health is None else record.health.learns,
        learns_reason=None if record.health is None else record.health.reason,
        created=record.created,
        record=printable(stored.location),
    )


def _differences(a: Record, b: Record) -> list[str]:
    mine, other = dict(_facts(a)), dict(_facts(b))
    found = [
        f"{name}: {_word(mine.get(name))}, {_word(other.get(name))}"
        for name in dict.fromkeys([*mine, *other])
        if mine.get(name) != other.get(name)
    ]
    if not found and a.keys.fingerprint != b.keys.fingerprint:
        # A digest of the model's own code is in the fingerprint, and nowhere else.
        return ["the protocol or the model's own code, by their fingerprints"]
    return found


def _facts(record: Record) -> Iterator[tuple[str, JsonValue]]:
    yield "backend", record.backend
    yield "device", None if record.device is None else record.device.model
    asked = record.requested
    yield from (fields_of(asked.knobs, Identity.TREATMENT) | record.contents).items()
    yield from fields_of(asked.knobs, Identity.PROTOCOL).items()
    for name, value in fields_of(asked.measure, Identity.PROTOCOL).items():
        yield f"measure.{name}", value
    yield "in turns", any(launch.in_turns for launch in record.launches)
    environment = record.environment
    yield from environment.versions.items()
    yield from environment.flags.items()
    for name, value in environment.model_dump(exclude={"versions", "flags"}).items():
        yield name.replace("_", " "), value


def _word(value: JsonValue) -> str:
    return "none" if value is None else str(value)
