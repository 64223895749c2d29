"""What is asked for beside a scenario or a stored case: `--set key=value` and `--sweep key=a,b`.

This module knows the text of an option and where its value goes. It must not know files, nor how
cases are made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, ValidationError

from bench.scenarios import yamltext
from bench.scenarios.errors import Location, ScenarioError, did_you_mean, dotted, from_validation
from bench.scenarios.paths import (
    GROUPS,
    KNOBS,
    MEASURES,
    OPEN,
    Settings,
    check_knob,
    flatten,
    is_knob,
    overlap,
    put,
    unknown,
)
from bench.scenarios.schema import Case, Knobs

_ENTRY = re.compile(r"^(ladder|cases)\[([^\]]+)\]\.(.+)$")
_ENTRY_KEYS = {"ladder": ("rung", "on", "remark"), "cases": ("case", "remark")}
_REFILLABLE = (
    "engine",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "momentum",
    "optimizer_impl",
    "compile_mode",
    "data.pool",
    "data.images",
    "fsdp.offload",
    "zero.stage",
    "zero.offload_optimizer",
    "zero.offload_param",
)
"""Knobs whose default the model works out from others."""
_PLAIN_KEYS = ("name", "description")
_FIXED_KEYS = ("schema", "extends")
_ELSEWHERE = (*_FIXED_KEYS, *_PLAIN_KEYS, "matrix", "ladder", "cases")
"""What a scenario has and a case has not."""


@dataclass(frozen=True)
class Override:
    """One `--set`: a dotted key and its value."""

    key: str
    value: JsonValue

    @property
    def place(self) -> str:
        """What the option is called in messages."""
        return f"--set {self.key}"


def parse_overrides(options: Sequence[str]) -> list[Override]:
    """Return what `key=value` options say; each value is read as YAML, so that types are right.

    Raises:
        ScenarioError: an option has no key or no value, is no YAML, or comes twice.
    """
    found: list[Override] = []
    for option in options:
        key, text = _split(option, "--set", "batch_size=16")
        if key in (override.key for override in found):
            raise ScenarioError(f"--set {key}", "is given twice", "remove one of the two")
        found.append(Override(key, yamltext.parse(text, f"--set {key}")))
    return found


def keys_given(options: Sequence[str]) -> list[str]:
    """Return the dotted keys that `key=value` options set, those of a `measure` group one by one.

    Raises:
        ScenarioError: an option cannot be read, or names what `measure` has not.
    """
    parsed = parse_overrides(options)
    return [
        key
        for override in parsed
        for key in (_measures(override) if _head(override.key) == "measure" else [override.key])
    ]


def parse_sweep(option: str) -> tuple[str, list[JsonValue]]:
    """Return the knob of `key=a,b,c` and its values, each read as YAML.

    Raises:
        ScenarioError: the knob is unknown, or the values are no list.
    """
    key, text = _split(option, "--sweep", "batch_size=4,8,16")
    place = f"--sweep {key}"
    check_knob(key, place)
    values = yamltext.parse(f"[{text}]", place)
    if not isinstance(values, list) or not values:
        raise ScenarioError(place, "has no values", "write them with commas: key=a,b,c")
    _refuse_interpolation(values, place)
    return key, values


def parse_sweeps(options: Sequence[str]) -> dict[str, list[JsonValue]]:
    """Return the knobs and values of several `key=a,b,c`, in their order.

    Raises:
        ScenarioError: one cannot be read, or a knob is swept twice.
    """
    sweeps: dict[str, list[JsonValue]] = {}
    for option in options:
        key, values = parse_sweep(option)
        if key in sweeps:
            raise ScenarioError(f"--sweep {key}", "is given twice", "write all values in one")
        sweeps[key] = values
    return sweeps


def apply(tree: dict[str, Any], override: Override) -> dict[str, Any]:
    """Return a scenario tree (as read from YAML, settings by dotted name) with one override in it.

    Raises:
        ScenarioError: the key is unknown, or is none that can be overridden.
    """
    key, value, place = override.key, override.value, override.place
    if key in _FIXED_KEYS:
        raise ScenarioError(place, f"{key} is fixed by the file", "copy the file and edit it there")
    if key in (*_PLAIN_KEYS, "ladder", "cases"):
        return tree | {key: value}
    if key == "matrix":
        return tree | {key: flatten(value, place) if isinstance(value, dict) else value}
    if key.startswith("matrix."):
        knob = key.removeprefix("matrix.")
        check_knob(knob, place)
        return tree | {"matrix": {**_mapping(tree, "matrix"), knob: value}}
    if _head(key) == "measure":
        return put(tree, _measures(override))
    entry = _ENTRY.match(key)
    if entry is not None:
        return tree | {entry[1]: _with_entry(tree, entry, override)}
    return put(tree, _knobs(override))


def targets(override: Override) -> Settings:
    """Return what an override sets for the whole scenario, by knob: nothing for `measure`, say."""
    return {} if _head(override.key) in ("measure", *_ELSEWHERE) else _knobs(override)


def with_overrides(case: Case, overrides: Sequence[str]) -> Case:
    """Return a stored case with `key=value` options applied, under a name that stays true.

    A stored value that is merely the default worked out from the old settings is worked out anew.

    Raises:
        ScenarioError: an override cannot be read, is unknown, or does not go with the case.
    """
    knobs, measure = _asked_for(case.knobs), case.measure.model_dump()
    name, parsed = case.case, parse_overrides(overrides)
    for override in parsed:
        _refuse_interpolation(override.value, override.place)
        if _head(override.key) in _ELSEWHERE:
            raise ScenarioError(
                override.place,
                f"{override.key} belongs to a scenario, not to a stored case",
                "override the knob itself",
            )
        if _head(override.key) == "measure":
            measure = put({"measure": measure}, _measures(override))["measure"]
            continue
        for knob, value in _knobs(override).items():
            name = _renamed(name, knob, _value_at(knobs, knob), value)
            knobs = put(knobs, {knob: value})
    if not parsed:
        return case

    def place(location: Location) -> str:
        key = dotted(location[1:] if location[:1] == ("knobs",) else location)
        if not key:
            return " with ".join([f"case {case.case}", *(x.place for x in parsed)])
        given = [x.place for x in parsed if overlap(key, x.key)]
        return given[0] if given else f"case {case.case}: {key}"

    changed = {"case": name, "knobs": knobs, "measure": measure}
    try:
        return Case.model_validate(case.model_dump() | changed)
    except ValidationError as error:
        raise from_validation(error, model=Case, place=place) from None


def label(knob: str, value: JsonValue) -> str:
    """Return what a case's name says about a knob it varies: `batch_size=8`."""
    return f"{knob}={as_text(value)}"


def as_text(value: JsonValue) -> str:
    """Return a value as it is written after the = of an option."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _split(option: str, flag: str, example: str) -> tuple[str, str]:
    key, equals, text = option.partition("=")
    key, text = key.strip(), text.strip()
    if not equals or not key:
        raise ScenarioError(flag, f"{option!r} is not of the form key=value", f"as in {example}")
    if not text:
        remedy = "write null for no value, or '' for an empty text"
        raise ScenarioError(f"{flag} {key}", "has no value after the =", remedy)
    return key, text


def _refuse_interpolation(value: JsonValue, place: str) -> None:
    if "${" in as_text(value):
        message = f"{as_text(value)} interpolates, and here is no scenario to take a value from"
        raise ScenarioError(place, message, "write the value itself")


def _head(key: str) -> str:
    return re.split(r"[.\[]", key)[0]


def _measures(override: Override) -> Settings:
    """Return an override of `measure` by dotted name."""
    inside = {override.key: override.value}
    if override.key == "measure" and isinstance(override.value, dict):
        inside = {f"measure.{name}": value for name, value in override.value.items()}
    for key in inside:
        if key not in MEASURES:
            raise unknown(key, override.place, MEASURES)
    return inside


def _knobs(override: Override) -> Settings:
    """Return an override of a knob, or of a group of them, by dotted name."""
    nested = override.key == OPEN or override.key in GROUPS
    if nested and isinstance(override.value, dict):
        return flatten({override.key: override.value}, "--set")
    if not is_knob(override.key) and override.key not in GROUPS:
        choices = (*KNOBS, *MEASURES, *_PLAIN_KEYS, "matrix", "ladder", "cases")
        raise unknown(override.key, override.place, choices)
    if override.key in GROUPS:
        check_knob(override.key, override.place)
    return {override.key: override.value}


def _with_entry(tree: dict[str, Any], entry: re.Match[str], override: Override) -> list[Any]:
    """Return a ladder or a list of cases with an override in the entry that it names."""
    kind, which, rest = entry[1], entry[2], entry[3]
    entries = tree.get(kind)
    entries = list(entries) if isinstance(entries, list) else []
    title = "rung" if kind == "ladder" else "case"
    names = [str(x.get(title)) if isinstance(x, dict) else "" for x in entries]
    if which.isdecimal() and int(which) < len(entries):
        at = int(which)
    elif which in names:
        at = names.index(which)
    else:
        there = f"there are {', '.join(names)}" if names else f"the scenario has no {kind}"
        raise ScenarioError(override.place, f"no {title} {which}", there)
    if rest.startswith("set."):
        knob = rest.removeprefix("set.")
        settings = flatten({knob: override.value}, override.place.removesuffix(f".{knob}"))
        entries[at] = {**entries[at], "set": {**_mapping(entries[at], "set"), **settings}}
    elif rest in _ENTRY_KEYS[kind]:
        entries[at] = {**entries[at], rest: override.value}
    else:
        remedy = did_you_mean(rest, (*_ENTRY_KEYS[kind], "set.KNOB"))
        raise ScenarioError(override.place, f"unknown key {rest}", remedy)
    return entries


def _mapping(tree: dict[str, Any], key: str) -> dict[str, Any]:
    found = tree.get(key)
    return found if isinstance(found, dict) else {}


def _asked_for(knobs: Knobs) -> dict[str, Any]:
    """Return the knobs without those that the model would fill with the same value by itself."""
    asked = knobs.model_dump()
    for name in _REFILLABLE:
        *parents, last = name.split(".")
        without = {key: dict(v) if isinstance(v, dict) else v for key, v in asked.items()}
        group = without[parents[0]] if parents else without
        del group[last]
        try:
            if Knobs.model_validate(without) == knobs:
                asked = without
        except ValidationError:
            # Others depend on the stored value, so it is not a default: it stays.
            continue
    return asked


def _value_at(tree: dict[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _renamed(name: str, knob: str, old: Any, new: JsonValue) -> str:
    """Return a case's name with the value it gives for a knob replaced; the name itself if none."""
    pattern = rf"(^|,){re.escape(label(knob, old))}(,|$)"
    return re.sub(pattern, lambda m: f"{m[1]}{label(knob, new)}{m[2]}", name)
