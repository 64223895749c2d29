"""How much faster a record is than the first row of its scenario, or why that cannot be said.

A ratio is given only where it means something: equal work, rounds that both took part in, and two
numbers that may be true. This module knows records, and not how a ratio is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.results import comparison
from bench.results.matching import pairs_of
from bench.results.record import Outcome, Record, Verdict
from bench.scenarios.identity import work_difference

References = Mapping[tuple[str, str, str], Record]
"""The first row of each session, backend and scenario."""


@dataclass(frozen=True)
class Speedup:
    """A ratio with its interval, or why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    noisy: bool = False
    reason: str | None = None


def speedup_of(record: Record, references: References) -> Speedup:
    """Return the ratio over the first row of the record's session, backend and scenario."""
    if record.outcome is not Outcome.OK:
        return Speedup()
    first = _reference(record, references)
    if first is None:
        return Speedup(reason="the first row was not run in the same session")
    obstacle = _obstacle(record, first)
    if obstacle is not None:
        return Speedup(reason=obstacle)
    noisy = Verdict.NOISY in (record.verdict, first.verdict)
    if first.id == record.id:
        return Speedup(1.0, noisy=noisy)
    pairs = pairs_of(first.launches, record.launches)
    if not pairs:
        return Speedup(reason="no round was shared with the first row")
    ratio = comparison.paired([pair.ratio for pair in pairs])
    return Speedup(ratio.estimate, ratio.low, ratio.high, noisy)


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


def _reference(record: Record, references: References) -> Record | None:
    # A resumed run may hold launches of the session that was interrupted: its first row serves too.
    sessions = [record.session, *(launch.session for launch in record.launches)]
    for session in dict.fromkeys(sessions):
        first = references.get((session, record.backend, record.requested.scenario))
        if first is not None:
            return first
    return None
