"""From a scenario to its cases: the cross product of a matrix, the rungs of a ladder, or a list.

Settings are merged by what was asked for, never over defaults that the model filled in, so that a
rung can change what a default depends on. This module does not know devices: which case a backend
refuses is told to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, ValidationError

from bench.scenarios.errors import (
    Location,
    ScenarioError,
    did_you_mean,
    dotted,
    from_validation,
    shown,
)
from bench.scenarios.overrides import label, parse_sweep, parse_sweeps
from bench.scenarios.paths import Settings, check_knob, flatten, overlap, put
from bench.scenarios.schema import Case, CaseEntry, Knobs, Rung, Scenario

Sweeps = Mapping[str, Sequence[JsonValue]]
Refused = Callable[[Knobs], bool]


def expand(scenario: Scenario, *, sweeps: Sweeps, refused: Refused) -> list[Case]:
    """Return the cases of a scenario in their order, refused ones included.

    Args:
        scenario: What to expand.
        sweeps: Knob to the values it takes; every case is crossed with all of them, and a ladder
            is climbed once for each combination.
        refused: Whether the backend refuses a case. It decides on which rung the next one stands.

    Raises:
        ScenarioError: a case is invalid, two have one name, or a sweep would be overridden.
    """
    _check_names(scenario)
    _check_references(scenario, sweeps)
    cases: list[Case] = []
    for combination in _combinations(sweeps):
        layers = [_Layer("", _asked(scenario)), _Layer("--sweep ", combination)]
        swept = ",".join(label(knob, value) for knob, value in combination.items())
        if scenario.ladder:
            cases += _climb(scenario, layers, swept, refused)
        else:
            cases += _spread(scenario, layers, swept)
    seen: set[str] = set()
    for case in cases:
        if case.case in seen:
            raise ScenarioError(scenario.origin.place, f"two cases are called {case.case}")
        seen.add(case.case)
    return cases


def varied(scenario: Scenario) -> dict[str, list[set[str]]]:
    """Return what each case sets by itself, when no rung is refused.

    Returns:
        Dotted knob to the places that set it, one set for each case: a knob with no empty set is
        out of reach for whatever is set on the whole scenario.
    """
    per_case = _settings_by_place(scenario)
    knobs = {knob for settings in per_case for knob in settings}
    return {knob: [settings.get(knob, set()) for settings in per_case] for knob in sorted(knobs)}


@dataclass(frozen=True)
class _Layer:
    """Settings that were written together, and the place to name when one of them is wrong."""

    place: str
    settings: Mapping[str, Any]
    title: str = ""


@dataclass(frozen=True)
class _Placed:
    """A rung of the ladder being climbed: its layers, and whether one may stand on it."""

    name: str
    layers: list[_Layer]
    refused: bool
    on: str | None
    """The rung it stands on."""


def _asked(scenario: Scenario) -> dict[str, Any]:
    return scenario.model_dump(exclude_unset=True, include=set(Knobs.model_fields))


def _combinations(axes: Sweeps) -> Iterator[Settings]:
    """Yield the cross product; the last axis varies fastest."""
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _spread(scenario: Scenario, layers: list[_Layer], swept: str) -> Iterator[Case]:
    if scenario.cases:
        for index, entry in enumerate(scenario.cases):
            layer = _entry_layer(scenario, "cases", index, entry)
            name = f"{entry.case},{swept}" if swept else entry.case
            yield _case(scenario, name, [*layers, layer], remark=entry.remark)
        return
    for combination in _combinations(scenario.matrix):
        names = [label(knob, value) for knob, value in combination.items()]
        name = ",".join([*names, swept] if swept else names)
        yield _case(scenario, name or "default", [*layers, _Layer("matrix.", combination)])


def _climb(scenario: Scenario, base: list[_Layer], swept: str, refused: Refused) -> Iterator[Case]:
    placed: dict[str, _Placed] = {}
    suffix = f",{swept}" if swept else ""
    for index, rung in enumerate(scenario.ladder):
        below = _stands_on(rung, placed)
        layers = [
            *(placed[below].layers if below is not None else base),
            _entry_layer(scenario, "ladder", index, rung),
        ]
        on = None if below is None else f"{below}{suffix}"
        case = _case(scenario, f"{rung.rung}{suffix}", layers, on=on, remark=rung.remark)
        yield case
        placed[rung.rung] = _Placed(rung.rung, layers, refused(case.knobs), below)


def _stands_on(rung: Rung, placed: Mapping[str, _Placed]) -> str | None:
    """Return the rung to build on: never a refused one; null is the scenario itself."""
    if rung.on is None:
        return next((name for name in reversed(list(placed)) if not placed[name].refused), None)
    below: str | None = rung.on
    while below is not None and placed[below].refused:
        below = placed[below].on
    return below


def _entry_layer(scenario: Scenario, kind: str, index: int, entry: Rung | CaseEntry) -> _Layer:
    place = f"{kind}[{index}]"
    settings = flatten(entry.set, f"{scenario.origin.place}: {place}.set")
    return _Layer(f"{place}.set.", settings, place)


def _case(
    scenario: Scenario,
    name: str,
    layers: Sequence[_Layer],
    *,
    on: str | None = None,
    remark: str | None = None,
) -> Case:
    tree: dict[str, Any] = {}
    for layer in layers:
        tree = put(tree, layer.settings)

    def place(location: Location) -> str:
        key = dotted(location)
        title = next((layer.title for layer in reversed(layers) if layer.title), f"case {name}")
        for layer in reversed(layers if key else ()):
            if any(overlap(key, knob) for knob in layer.settings):
                title = f"{layer.place}{key}"
                break
        return title if title.startswith("--") else f"{scenario.origin.place}: {title}"

    try:
        knobs = Knobs.model_validate(tree)
    except ValidationError as error:
        raise from_validation(error, model=Knobs, place=place) from None
    return Case(
        scenario=scenario.name,
        case=name,
        on=on,
        remark=remark,
        knobs=knobs,
        measure=scenario.measure,
    )


def _settings_by_place(scenario: Scenario) -> list[dict[str, set[str]]]:
    if scenario.matrix:
        return [{knob: {f"matrix.{knob}"} for knob in scenario.matrix}]
    result: list[dict[str, set[str]]] = []
    by_name: dict[str, dict[str, set[str]]] = {}
    entries: Sequence[Rung | CaseEntry] = scenario.ladder or scenario.cases
    for index, entry in enumerate(entries):
        kind, name = ("ladder", entry.rung) if isinstance(entry, Rung) else ("cases", entry.case)
        settings: dict[str, set[str]] = {}
        if isinstance(entry, Rung):
            below = entry.on or (scenario.ladder[index - 1].rung if index else None)
            settings = dict(by_name.get(below, {})) if below is not None else {}
        own = _entry_layer(scenario, kind, index, entry).settings
        settings |= {knob: {f"{kind}[{name}].set.{knob}"} for knob in own}
        by_name[name] = settings
        result.append(settings)
    return result


def _check_names(scenario: Scenario) -> None:
    place = scenario.origin.place
    for knob, values in scenario.matrix.items():
        check_knob(knob, f"{place}: matrix.{knob}")
        if not values:
            raise ScenarioError(f"{place}: matrix.{knob}", "has no values", "give at least one")
        _check_distinct([label(knob, value) for value in values], f"{place}: matrix.{knob}", "")
        clash = next((x for x in scenario.matrix if x != knob and overlap(x, knob)), None)
        if clash is not None:
            raise ScenarioError(f"{place}: matrix.{knob}", f"matrix.{clash} sets it too")
    _check_distinct([entry.case for entry in scenario.cases], f"{place}: cases", ".case")
    rungs = [rung.rung for rung in scenario.ladder]
    _check_distinct(rungs, f"{place}: ladder", ".rung")
    for index, rung in enumerate(scenario.ladder):
        if rung.on is None or rung.on in rungs[:index]:
            continue
        where = f"{place}: ladder[{index}].on"
        if rung.on in rungs:
            raise ScenarioError(where, f"{shown(rung.on)} does not stand above it", "move it down")
        known = rungs[:index]
        remedy = did_you_mean(rung.on, known) if known else "the first rung stands on nothing"
        raise ScenarioError(where, f"no rung is called {shown(rung.on)}", remedy)


def _check_distinct(names: Sequence[str], place: str, field: str) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ScenarioError(f"{place}[{index}]{field}", f"{name} is there twice", "remove one")


def _check_references(scenario: Scenario, sweeps: Sweeps) -> None:
    """Refuse a sweep that cases override, and an interpolation that cases would leave behind."""
    setters = varied(scenario)
    for key, values in sweeps.items():
        place = f"--sweep {key}"
        check_knob(key, place)
        if not values:
            raise ScenarioError(place, "has no values", "write them with commas: key=a,b,c")
        _check_distinct([label(key, value) for value in values], place, "")
        by = sorted({x for knob in setters if overlap(knob, key) for s in setters[knob] for x in s})
        if by:
            raise ScenarioError(
                place, f"the scenario varies it already: {', '.join(by)}", "change it there"
            )
    for reference in sorted(scenario.origin.referenced):
        for knob in (*setters, *sweeps):
            if overlap(reference, knob):
                raise ScenarioError(
                    f"{scenario.origin.place}: ${{{reference}}}",
                    f"is resolved once, while the cases vary {knob}",
                    "write the value in each case instead",
                )


__all__ = ["expand", "parse_sweep", "parse_sweeps", "varied"]
