"""What has to be said beside the numbers of a block of rows: reasons, remarks and sources.

This module knows rows, and nothing of how a table looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bench.results.row import Row
from bench.results.wording import citations, one_line, remarks, standing


def notes_of(rows: Sequence[Row], shown: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what has to be said beside the numbers, the same words once for all their rows."""
    said: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        words = "; ".join(remarks(row))
        if words:
            said.setdefault((standing(row), words), []).append(row.case)
    for (what, words), cases in said.items():
        yield f"{_names(cases)} ({what})", words
    yield from _without_a_ratio(rows)
    yield from ((name, source) for name, source in citations(rows) if name in shown)
    for source in dict.fromkeys(row.source for row in rows if row.source):
        yield "claimed by", one_line(source)


def _without_a_ratio(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield why rows are not held against another; several devices alone ask for no efficiency."""
    scales = any(row.devices == 1 for row in rows)
    kinds: tuple[tuple[str, Callable[[Row], str | None]], ...] = (
        ("no speed-up", lambda row: None if row.source else row.speedup_reason),
        ("no scaling", lambda row: row.scaling_reason if scales else None),
        ("no offload ratio", lambda row: row.offload_reason),
    )
    for what, reason_of in kinds:
        reasons: dict[str, list[str]] = {}
        for row in rows:
            if (reason := reason_of(row)) is not None:
                reasons.setdefault(reason, []).append(row.case)
        for reason, cases in reasons.items():
            yield what, one_line(f"{_names(cases)}: {reason}")


def _names(cases: Sequence[str]) -> str:
    return one_line(", ".join(dict.fromkeys(cases)))
