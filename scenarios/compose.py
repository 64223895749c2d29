"""From a name or a file to a scenario: `extends`, interpolation and overrides, then validation.

OmegaConf merges and interpolates; the models in `schema` decide what is valid. An interpolation
may name a key of the scenario and nothing else: records are shared, so nothing of the machine
(its environment, say) may enter one. This module does not know how cases run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from bench.scenarios import yamlfile
from bench.scenarios.errors import (
    Location,
    ScenarioError,
    did_you_mean,
    dotted,
    from_validation,
    shown,
)
from bench.scenarios.expand import expand, varied
from bench.scenarios.overrides import (
    Override,
    apply,
    as_text,
    parse_overrides,
    targets,
    with_overrides,
)
from bench.scenarios.paths import flatten, is_knob, overlap
from bench.scenarios.schema import SCHEMA_VERSION, Origin, Scenario

_FOLDER = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")
_WAYS = ("matrix", "ladder", "cases")
"""The ways to make cases: a child's replaces its parent's, whichever each of them is."""
_NOT_INHERITED = ("schema", "extends", "name", "description")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)\}")


class Shipped(NamedTuple):
    """A scenario that comes with the program."""

    name: str
    description: str


def shipped() -> list[Shipped]:
    """Return the shipped scenarios in the order of their names."""
    found = []
    for path in sorted(_FOLDER.glob("*.yaml")):
        tree = _read(_Source(path, path.name))
        found.append(Shipped(path.stem, " ".join(str(tree.get("description", "")).split())))
    return found


def is_scenario(name_or_path: str) -> bool:
    """Return whether this names a shipped scenario or a YAML file, there or not."""
    path = Path(name_or_path)
    shipped_too = path.name == name_or_path and _is_file(_FOLDER / f"{name_or_path}.yaml")
    return path.suffix in _SUFFIXES or shipped_too


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Scenario:
    """Return the scenario of a shipped name or a YAML file, with `key=value` overrides applied.

    Raises:
        ScenarioError: it cannot be found, read or composed; it is invalid; or an override is, or
            would change nothing.
    """
    parsed = parse_overrides(overrides)
    source = _find(name_or_path, Path())
    chain = _chain(source)
    tree = _merged(chain)
    tree.setdefault("name", source.path.stem)
    for override in parsed:
        list(_references(override.value, override.place))
        tree = apply(tree, override)
    tree = _by_dotted_name(tree, source.title)
    referenced = frozenset(_references(tree, source.title))
    tree = _resolved(tree, source.title)

    def place(location: Location) -> str:
        return _place(location, chain, parsed)

    try:
        scenario = Scenario.model_validate(tree)
    except ValidationError as error:
        raise from_validation(error, model=Scenario, place=place) from None
    scenario = scenario.with_origin(Origin(source.title, referenced))
    for override in parsed:
        _check_effect(scenario, override)
    # Every case is built once here, so that a mistake in one is found before anything runs.
    expand(scenario, sweeps={}, refused=lambda _: False)
    return scenario


class _Source(NamedTuple):
    """A scenario file, and what messages call it."""

    path: Path
    title: str


class _Layer(NamedTuple):
    """What one file of a chain says."""

    source: _Source
    tree: dict[str, Any]


def _find(name_or_path: str, folder: Path, asker: str | None = None) -> _Source:
    """Return the file of a shipped name, or of a path relative to a folder.

    Args:
        name_or_path: What was asked for.
        folder: Where a relative path starts.
        asker: The place that asks, where it is not the command line.
    """
    given = Path(name_or_path)
    if given.suffix in _SUFFIXES or given.name != name_or_path:
        return _Source(folder / given, name_or_path)
    path = _FOLDER / f"{name_or_path}.yaml"
    if _is_file(path):
        return _Source(path, path.name)
    names = [file.stem for file in sorted(_FOLDER.glob("*.yaml"))]
    if _is_file(folder / given):
        remedy = f"to use the file of this name, write ./{name_or_path}"
    else:
        remedy = did_you_mean(name_or_path, names)
    raise ScenarioError(
        asker or "scenario", f"{shown(name_or_path)} is no shipped scenario", remedy
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # A name too long for the file system, say: then no file has it.
        return False


def _read(source: _Source) -> dict[str, Any]:
    """Return what one file says, settings by dotted name."""
    tree = yamlfile.read(source.path, source.title, kind="a scenario file", version=SCHEMA_VERSION)
    return _by_dotted_name(tree, source.title)


def _by_dotted_name(tree: dict[str, Any], title: str) -> dict[str, Any]:
    """Return a tree whose `matrix` and `set` name each knob dotted, however they were written."""
    result = dict(tree)
    if isinstance(tree.get("matrix"), dict):
        result["matrix"] = flatten(tree["matrix"], f"{title}: matrix")
    for way in ("ladder", "cases"):
        if isinstance(tree.get(way), list):
            result[way] = [
                entry | {"set": flatten(entry["set"], f"{title}: {way}[{index}].set")}
                if isinstance(entry, dict) and isinstance(entry.get("set"), dict)
                else entry
                for index, entry in enumerate(tree[way])
            ]
    for key in tree:
        if "." in key and is_knob(key):
            group, _, inner = key.partition(".")
            raise ScenarioError(
                f"{title}: {key}",
                "is dotted at the top level",
                f"write {group}: and {inner}: indented below it",
            )
    return result


def _chain(source: _Source) -> list[_Layer]:
    """Return a file and all it extends, the farthest ancestor first."""
    layers: list[_Layer] = []
    while True:
        known = [layer.source.path.resolve() for layer in layers]
        if source.path.resolve() in known:
            start = known.index(source.path.resolve())
            circle = [layer.source.title for layer in layers[start:]]
            raise ScenarioError(
                f"{layers[-1].source.title}: extends",
                f"goes in a circle: {' -> '.join([*circle, circle[0]])}",
                "remove one of them",
            )
        tree = _read(source)
        layers.append(_Layer(source, tree))
        if "extends" not in tree:
            return layers[::-1]
        parent, place = tree["extends"], f"{source.title}: extends"
        if not isinstance(parent, str) or not parent:
            raise ScenarioError(place, f"{shown(parent)} is no name", "name one scenario or file")
        source = _find(parent, source.path.parent, place)
        if not _is_file(source.path):
            raise ScenarioError(place, f"there is no file {shown(parent)}")


def _merged(chain: Sequence[_Layer]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in chain:
        if any(way in layer.tree for way in _WAYS):
            merged = {key: value for key, value in merged.items() if key not in _WAYS}
        merged = {key: value for key, value in merged.items() if key not in _NOT_INHERITED}
        own = {key: value for key, value in layer.tree.items() if key != "extends"}
        # Checked before OmegaConf sees it, which would call what these strings ask for.
        list(_references(own, layer.source.title))
        try:
            both = OmegaConf.merge(OmegaConf.create(merged), OmegaConf.create(own))
        except OmegaConfBaseException as error:
            raise _complaint(error, layer.source.title) from None
        merged = _plain(OmegaConf.to_container(both, resolve=False))
    return merged


def _resolved(tree: dict[str, Any], title: str) -> dict[str, Any]:
    try:
        return _plain(OmegaConf.to_container(OmegaConf.create(tree), resolve=True))
    except OmegaConfBaseException as error:
        raise _complaint(error, title) from None


def _plain(container: Any) -> dict[str, Any]:
    if not isinstance(container, dict):
        raise TypeError(f"OmegaConf returned {type(container).__name__} for a mapping")
    return container


def _complaint(error: OmegaConfBaseException, title: str) -> ScenarioError:
    first = str(error).strip().splitlines()[0]
    place = f"{title}: {error.full_key}" if error.full_key else title
    return ScenarioError(place, first, "set the key it names, or write the value itself")


def _references(value: Any, place: str, path: Location = ()) -> Iterator[str]:
    """Yield the key of every interpolation, and refuse all that is more than a key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _references(inner, place, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _references(inner, place, (*path, index))
    elif isinstance(value, str):
        where = f"{place}: {dotted(path)}" if path else place
        found = _REFERENCE.findall(value)
        if value.count("${") != len(found):
            raise ScenarioError(
                where,
                f"{shown(value)} interpolates something else than a key of the scenario",
                "write ${key}; the environment and other resolvers stay out of shared records",
            )
        if value == "???":
            raise ScenarioError(where, "??? stands for a value that is missing", "write the value")
        yield from found


def _place(location: Location, chain: Sequence[_Layer], overrides: Sequence[Override]) -> str:
    """Return where a location was written: an override, or the nearest file that has it."""
    key = dotted(location)
    for override in overrides:
        if key and overlap(key, override.key):
            return override.place
    for layer in reversed(chain):
        if key and _has(layer.tree, location):
            return f"{layer.source.title}: {key}"
    title = chain[-1].source.title
    if key:
        return f"{title}: {key}"
    return " with ".join([title, *(override.place for override in overrides)])


def _has(tree: Any, location: Location) -> bool:
    for part in location:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _check_effect(scenario: Scenario, override: Override) -> None:
    """Refuse an override of a knob that every case sets for itself."""
    settings, setters = targets(override), varied(scenario)
    for key, value in settings.items():
        by_case = [found for knob, found in setters.items() if overlap(knob, key) and all(found)]
        places = list(dict.fromkeys(place for found in by_case for case in found for place in case))
        if not places:
            continue
        text = as_text(value)
        text = f"[{text}]" if scenario.matrix else text
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        raise ScenarioError(
            f"--set {key}",
            f"changes nothing: in {scenario.origin.place} every case takes it from "
            f"{places[0]}{more}",
            f"write --set '{places[0]}={text}'" + (", and so for each" if more else ""),
        )


__all__ = ["Shipped", "load", "shipped", "with_overrides"]
