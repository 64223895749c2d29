"""One clear message for whatever is wrong with a scenario: where, what, and what to do.

This module turns validation errors into sentences. It must not know where a scenario comes from
or how it is composed: the caller says which place a key path belongs to.
"""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

Location = tuple[int | str, ...]

_ALTERNATIVES = re.compile(r"^\^\(([^()]+)\)\$$")
_QUOTED = re.compile(r"'([^']*)'")
_SHOWN = 60
"""Characters of a value that a message repeats."""

_WORDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "string_too_short": "must not be empty",
}


class ScenarioError(Exception):
    """A scenario, or what was asked of one, that cannot be used. Its text is the whole message.

    Attributes:
        place: Where, as "file: key.path" or as the option that was given.
        message: What is wrong, the value and the allowed ones included.
        remedy: What to do about it; null where the message says so already.
    """

    def __init__(self, place: str, message: str, remedy: str | None = None) -> None:
        super().__init__(place, message, remedy)
        self.place = place
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}"
        return text if self.remedy is None else f"{text}; {self.remedy}"


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return a remedy: the closest choice where one is close, and all of them where none is."""
    known = list(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"choose one of {', '.join(known)}"


def shown(value: object) -> str:
    """Return a value as a message repeats it: quoted when it is text, and never long."""
    plain = value is None or isinstance(value, bool)
    text = json.dumps(value) if plain else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def dotted(location: Sequence[int | str]) -> str:
    """Return a location as it is written in messages: `ladder[3].set.batch_size`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path


def from_validation(
    error: ValidationError, *, model: type[BaseModel], place: Callable[[Location], str]
) -> ScenarioError:
    """Return one error that lists every problem that validation found.

    Args:
        error: What pydantic raised.
        model: The model that was validated; its fields are the suggestions for unknown keys.
        place: Tells where a location was written, as "file: key.path".
    """
    problems = [
        (place(problem["loc"]), _sentence(problem, model))
        for problem in error.errors(include_url=False)
    ]
    if len(problems) == 1:
        (where, (message, remedy)), *_ = problems
        return ScenarioError(where, message, remedy)
    source = place(())
    lines = [str(ScenarioError(where, *sentence)) for where, sentence in problems]
    return ScenarioError(source, f"{len(lines)} problems\n" + "\n".join(f"  {x}" for x in lines))


def _sentence(problem: Any, model: type[BaseModel]) -> tuple[str, str | None]:
    """Return (message, remedy) of one pydantic problem."""
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    allowed = _allowed(kind, context)
    if allowed:
        return _choice(value, allowed)
    match kind:
        case "extra_forbidden":
            name = str(problem["loc"][-1])
            known = _keys(_model_at(model, problem["loc"][:-1]))
            return f"unknown key {name}", did_you_mean(name, known) if known else "remove it"
        case "missing":
            return "is missing", "add it"
        case "value_error":
            about = "" if isinstance(value, dict | list | BaseModel) else f"{shown(value)}: "
            return f"{about}{context['error']}", None
        case _:
            words = (
                str(problem["msg"]).replace("Input should", "must").replace("String should", "must")
            )
            return f"{shown(value)} {_WORDS.get(kind, words)}", None


def _allowed(kind: str, context: dict[str, Any]) -> list[str]:
    """Return the values that a problem leaves to choose from; empty where they are no list."""
    if kind == "literal_error":
        return _QUOTED.findall(context["expected"]) or [context["expected"]]
    found = _ALTERNATIVES.match(context.get("pattern", ""))
    return [value.replace(":.+", ":PATH") for value in found[1].split("|")] if found else []


def _choice(value: object, allowed: list[str]) -> tuple[str, str | None]:
    message = f"{shown(value)} is not one of {', '.join(allowed)}"
    close = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.6)
    return message, f"did you mean {close[0]}?" if close else None


def _keys(model: type[BaseModel] | None) -> list[str]:
    if model is None:
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """Return the model that validates what lies at a location; null where there is none."""
    at: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        if at is None or part not in at.model_fields:
            return None
        at = _inner_model(at.model_fields[part].annotation)
    return at


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (list, typing.Union, types.UnionType):
        found = [_inner_model(inner) for inner in typing.get_args(annotation)]
        return next((inner for inner in found if inner is not None), None)
    return None
