"""Choosing rows and columns by name: `--where key=value` and `--columns a,b`.

A key is a column of the table or a knob. This module knows rows, and not how they are shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from pydantic import JsonValue

from bench.results.rows import Row
from bench.scenarios.identity import tagged_fields
from bench.scenarios.schema import Knobs

COLUMNS = tuple(name for name in Row.model_fields if name != "knobs")
KNOBS = tuple(name for name, _, _ in tagged_fields(Knobs()) if name not in COLUMNS)

_NULLS = {"", "null", "none"}
_TRUTHS = {"true": True, "yes": True, "false": False, "no": False}


class QueryError(ValueError):
    """A condition or a column that cannot be understood: what was written, and what is known."""


def where(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """Return the rows that meet every condition, each written `key=value`.

    Text is compared without regard to case, numbers by value, and `null` finds what is unknown.

    Raises:
        QueryError: a condition without `=`, or an unknown key.
    """
    wanted = [_condition(text) for text in conditions]
    return [row for row in rows if all(_equal(cell(row, key), text) for key, text in wanted)]


def columns(names: str) -> list[str]:
    """Return the columns that a comma-separated list names.

    Raises:
        QueryError: an unknown name, or none at all.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise QueryError(f"--columns {names!r} names no column; known: {', '.join(COLUMNS)}")
    for name in chosen:
        _check(name, "--columns")
    return list(dict.fromkeys(chosen))


def cell(row: Row, key: str) -> JsonValue:
    """Return the value of a column or of a knob; null where the row does not have it."""
    if key in COLUMNS:
        value: JsonValue = getattr(row, key)
        return value
    return row.knobs.get(key)


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise QueryError(f"--where {text!r}: write key=value, as in --where precision=fp32")
    _check(key.strip(), "--where")
    return key.strip(), value.strip()


def _check(key: str, option: str) -> None:
    if key in COLUMNS or key in KNOBS:
        return
    close = difflib.get_close_matches(key, [*COLUMNS, *KNOBS], n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"columns: {', '.join(COLUMNS)}; knobs: {', '.join(KNOBS)}"
    )
    raise QueryError(f"{option}: no column or knob {key!r}; {hint}")


def _equal(value: JsonValue, text: str) -> bool:
    if value is None:
        return text.lower() in _NULLS
    if isinstance(value, bool):
        return _TRUTHS.get(text.lower()) is value
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return str(value).lower() == text.lower()
