"""Reads YAML text that people write: plain data only, and every complaint with line and column.

The dialect is YAML 1.2's: `on`, `yes` and `no` are text, `1e-3` is a number, 010 is ten. What
cannot stand in a record (dates, NaN, Python objects, keys that are not text) is refused here.
This module knows nothing of scenarios.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from pydantic import JsonValue

from bench.scenarios.errors import ScenarioError

_TAG = "tag:yaml.org,2002:"
_DEEPEST = 100
"""Levels of nesting that a document may have."""


def parse(text: str, place: str) -> JsonValue:
    """Return the one document in a text; null for an empty one.

    Args:
        text: YAML.
        place: What the text is called in messages.

    Raises:
        ScenarioError: it is no YAML, or asks for something else than plain data.
    """
    try:
        value: JsonValue = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        where = _position(place, error.problem_mark or error.context_mark)
        raise ScenarioError(where, *_complaint(error, text)) from None
    except yaml.reader.ReaderError as error:
        raise ScenarioError(
            place, f"character {error.position} ({error.character!r}) cannot stand in YAML"
        ) from None
    return value


class _PlainLoader(yaml.SafeLoader):
    """A safe loader for the JSON part of YAML 1.2: no aliases, no tags, no repeated keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise self._complaint("aliases (*name) are not supported")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._complaint(f"nested more than {_DEEPEST} levels deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _complaint(self, problem: str) -> yaml.composer.ComposerError:
        mark: yaml.Mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return yaml.composer.ComposerError(None, None, problem, mark)

    def plain_mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != f"{_TAG}str":
                raise _refusal(f"the key {key_node.value!r} is not text", key_node)
            key = self.plain_text(key_node)
            if key in mapping:
                raise _refusal(f"the key {key!r} stands here for the second time", key_node)
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping

    def plain_text(self, node: yaml.ScalarNode) -> str:
        # Two escapes may stand for one character, as in JSON; half of one is no character.
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _refusal("the text holds half a character (a lone surrogate)", node) from None

    def plain_integer(self, node: yaml.ScalarNode) -> int:
        try:
            return int(node.value, 10)
        except ValueError:
            raise _refusal(f"{str(node.value)[:20]!r} is no usable whole number", node) from None

    def plain_float(self, node: yaml.ScalarNode) -> float:
        try:
            value = float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise _refusal(f"{str(node.value)[:20]!r} is no usable number", node) from None
        if not math.isfinite(value):
            raise _refusal(f"{node.value!r} is not a finite number", node)
        return value


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
        r"|\.(?:nan|NaN|NAN))$",
        "-+0123456789.",
    ),
):
    _PlainLoader.add_implicit_resolver(_TAG + _tag, re.compile(_pattern), list(_first))

# Whatever is not named here has no constructor: a tag in the text is refused by the loader itself.
_PlainLoader.yaml_constructors = {
    f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
    f"{_TAG}bool": yaml.SafeLoader.construct_yaml_bool,
    f"{_TAG}int": _PlainLoader.plain_integer,
    f"{_TAG}float": _PlainLoader.plain_float,
    f"{_TAG}str": _PlainLoader.plain_text,
    f"{_TAG}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{_TAG}map": _PlainLoader.plain_mapping,
    None: yaml.SafeLoader.construct_undefined,
}


def _refusal(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _position(place: str, mark: yaml.Mark | None) -> str:
    if mark is None:
        return place
    return f"{place}: line {mark.line + 1}, column {mark.column + 1}"


_ANSWERS = (
    ("aliases", "", "repeat the value, or in a scenario write ${key} for that of another key"),
    ("second time", "", "remove one of the two"),
    ("not text", "", "put it in quotes"),
    ("another document", "holds more than one document", "keep one"),
)
"""Part of a problem, what to say instead of it (empty: the problem itself), and the remedy."""


def _complaint(error: yaml.MarkedYAMLError, text: str) -> tuple[str, str | None]:
    problem, mark = error.problem or "", error.problem_mark
    line = "" if mark is None else "".join(text.splitlines()[mark.line : mark.line + 1])
    if "\\t" in problem or (mark is not None and "\t" in line[: mark.column + 1]):
        return "a tab cannot stand here", "indent with spaces"
    if "could not determine a constructor for the tag" in problem:
        tag = problem.split("'")[1].removeprefix(_TAG)
        return f"the tag !!{tag} is refused: only plain data is read", "remove the tag"
    for part, message, remedy in _ANSWERS:
        if part in problem:
            return message or problem, remedy
    if isinstance(error, yaml.constructor.ConstructorError | yaml.composer.ComposerError):
        return problem, None
    return f"is no YAML: {problem}", None
