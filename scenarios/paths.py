"""The dotted names of the knobs, and how settings by dotted name become a tree.

This module knows the names in the schema and nothing of files, cases or overrides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, JsonValue

from bench.scenarios.errors import ScenarioError, did_you_mean
from bench.scenarios.schema import Knobs, Measure

Settings = dict[str, JsonValue]
"""Dotted knob to value."""

OPEN = "model_kwargs"
"""The one knob below which any name may stand: they belong to the model's factory."""


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


KNOBS = tuple(_leaves(Knobs))
MEASURES = tuple(f"measure.{name}" for name in _leaves(Measure))
GROUPS = tuple(dict.fromkeys(knob.split(".")[0] for knob in KNOBS if "." in knob))


def is_knob(key: str) -> bool:
    """Say whether a dotted name is that of one knob (a group of them is not)."""
    return key in KNOBS or (key.startswith(f"{OPEN}.") and all(key.split(".")))


def overlap(left: str, right: str) -> bool:
    """Say whether two dotted names are the same, or one lies below the other."""
    return f"{left}.".startswith(f"{right}.") or f"{right}.".startswith(f"{left}.")


def flatten(settings: Mapping[str, JsonValue], place: str) -> Settings:
    """Return settings by dotted knob, whether they were written dotted or nested.

    Args:
        settings: Knob or group of knobs to value, or to a mapping of the same kind.
        place: Where they were written, for messages.

    Raises:
        ScenarioError: an unknown knob, a group without a mapping, or a knob that is set twice.
    """
    flat: Settings = {}
    for key, value in _named(settings, place):
        clash = next((other for other in flat if overlap(key, other)), None)
        if clash is not None:
            raise ScenarioError(f"{place}.{key}", f"{clash} is set here already", "remove one")
        flat[key] = value
    return flat


def put(tree: dict[str, Any], settings: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return a copy of a nested tree with settings by dotted name laid over it."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for key, value in settings.items():
        *parents, last = key.split(".")
        at = result
        for parent in parents:
            below = at.get(parent)
            at[parent] = dict(below) if isinstance(below, dict) else {}
            at = at[parent]
        at[last] = value
    return result


def check_knob(key: str, place: str) -> None:
    """Refuse a name that is not one knob's.

    Raises:
        ScenarioError: it is unknown, a group of knobs, or belongs to the whole scenario.
    """
    if is_knob(key):
        return
    if key in GROUPS:
        inside = [knob for knob in KNOBS if knob.startswith(f"{key}.")]
        raise ScenarioError(place, f"{key} is a group of knobs", f"name one: {', '.join(inside)}")
    if key == "measure" or key.startswith("measure."):
        raise ScenarioError(
            place,
            f"{key} belongs to the whole scenario, not to one of its cases",
            "write measure at the top level of the scenario",
        )
    raise unknown(key, place, KNOBS)


def unknown(key: str, place: str, choices: Iterable[str]) -> ScenarioError:
    """Return the error for a name that means nothing, with the closest one that does."""
    return ScenarioError(place, f"unknown knob {key}", did_you_mean(key, choices))


def _named(
    settings: Mapping[str, JsonValue], place: str, prefix: str = ""
) -> Iterator[tuple[str, JsonValue]]:
    for name, value in settings.items():
        key = f"{prefix}{name}"
        nested = key in GROUPS or (key == OPEN and value)
        if nested and isinstance(value, dict):
            yield from _named(value, place, f"{key}.")
        else:
            check_knob(key, f"{place}.{key}")
            yield key, value
