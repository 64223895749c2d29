"""How much faster one record is than another of its session, or why that cannot be said.

A ratio is given only where it means something: equal work, rounds that both took part in, and two
numbers that may be true. This module knows records, and not how a ratio is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.results import comparison
from bench.results.matching import pairs_of
from bench.results.record import Outcome, Record, Verdict
from bench.scenarios.identity import fields_of, work_difference
from bench.scenarios.schema import Identity

References = Mapping[tuple[str, str, str], Record]
"""The first row of each session, backend and scenario."""
Siblings = Mapping[tuple[str, str, str], Sequence[Record]]
"""The newest record of every row of each session, backend and scenario, in the scenario's order."""


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
    found = (references[place] for place in _places(record) if place in references)
    first = next(found, None)
    if first is None:
        return Speedup(reason="the first row was not run in the same session")
    return ratio_over(record, first, "the first row")


def ratio_over(record: Record, other: Record, name: str) -> Speedup:
    """Return the ratio of a record that has a number over another one.

    Args:
        record: The numerator.
        other: The denominator.
        name: What the other one is called in a reason.
    """
    obstacle = _obstacle(record, other, name)
    if obstacle is not None:
        return Speedup(reason=obstacle)
    noisy = Verdict.NOISY in (record.verdict, other.verdict)
    if other.id == record.id:
        return Speedup(1.0, noisy=noisy)
    pairs = pairs_of(other.launches, record.launches)
    if not pairs:
        return Speedup(reason=f"no round was shared with {name}")
    ratio = comparison.paired([pair.ratio for pair in pairs])
    return Speedup(ratio.estimate, ratio.low, ratio.high, noisy)


def siblings_but_for(
    record: Record, siblings: Siblings, may_differ: Callable[[str], bool]
) -> Iterator[Record]:
    """Yield the rows beside a record, itself included, that do its work in the same way.

    Args:
        record: Whose session, backend and scenario it is about.
        siblings: All rows.
        may_differ: Whether a setting, by its dotted name, may be another.
    """
    mine = fields_of(record.requested.knobs, Identity.TREATMENT)
    seen: set[str] = set()
    for place in _places(record):
        for other in siblings.get(place, ()):
            theirs = fields_of(other.requested.knobs, Identity.TREATMENT)
            differing = {key for key in mine.keys() | theirs if mine.get(key) != theirs.get(key)}
            same_work = other.keys.work == record.keys.work
            if same_work and other.id not in seen and all(map(may_differ, differing)):
                seen.add(other.id)
                yield other


def _obstacle(record: Record, other: Record, name: str) -> str | None:
    if other.outcome is not Outcome.OK:
        return f"{name} has no number"
    if record.verdict is Verdict.SUSPECT:
        return "this row is suspect"
    if other.verdict is Verdict.SUSPECT:
        return f"{name} is suspect"
    if other.keys.work != record.keys.work:
        fields = work_difference(other.requested.knobs, record.requested.knobs)
        return f"other work than {name}: {', '.join(fields)}"
    return None


def _places(record: Record) -> Iterator[tuple[str, str, str]]:
    # A resumed run may hold launches of the session that was interrupted: its rows serve too.
    sessions = [record.session, *(launch.session for launch in record.launches)]
    for session in dict.fromkeys(sessions):
        yield session, record.backend, record.requested.scenario
