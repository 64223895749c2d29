"""Choosing rows and columns by name: `--where key=value` and `--columns a,b`.

A key is a column of the table or a knob. This module knows rows, and not how they are shown.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import get_args

from pydantic import BaseModel, JsonValue

from bench.results.row import Row
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
        QueryError: a condition without `=`, an unknown key, or a value that the key never has.
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
    key, value = key.strip(), value.strip()
    _check(key, "--where")
    _check_value(key, value)
    return key, value


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


def _check_value(key: str, text: str) -> None:
    if text.lower() in _NULLS:
        return
    if key in _NUMBERS and _number(text) is None:
        raise QueryError(f"--where {key}={text}: {key} is a number, and {text!r} is none")
    if key in _SWITCHES and text.lower() not in _TRUTHS:
        raise QueryError(f"--where {key}={text}: {key} is true or false, not {text!r}")


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _equal(value: JsonValue, text: str) -> bool:
    if value is None:
        return text.lower() in _NULLS
    if isinstance(value, bool):
        return _TRUTHS.get(text.lower()) is value
    if isinstance(value, int | float):
        return _number(text) == value
    return str(value).lower() == text.lower()


def _types(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, set[object]]]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _types(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", set(get_args(annotation) or (annotation,)) - {NoneType}


_KEYS = dict(_types(Knobs)) | dict(_types(Row))
_NUMBERS = {key for key, types in _KEYS.items() if types <= {int, float}}
_SWITCHES = {key for key, types in _KEYS.items() if types == {bool}}
