"""The JSON Schema of a scenario file, for editors that complete and check YAML.

It describes the file before composition: with `extends`, and with `${key}` wherever a value may
stand. What depends on several keys at once is checked by the models alone.
"""

from __future__ import annotations

from typing import Any

from bench.scenarios.schema import Scenario

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INTERPOLATION = {"type": "string", "pattern": r"\$\{[A-Za-z_][\w.-]*\}"}
_ANNOTATIONS = ("description", "title", "default")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a scenario file."""
    schema = Scenario.model_json_schema(by_alias=True)
    schema["properties"]["extends"] = {
        "type": "string",
        "minLength": 1,
        "description": "A shipped scenario, or a file relative to this one, to build on.",
    }
    # The name defaults to that of the file.
    schema["required"] = [name for name in schema["required"] if name != "name"]
    knobs_below = {"type": "object", "description": "A group of knobs, written nested."}
    axis = schema["properties"]["matrix"]["additionalProperties"]
    schema["properties"]["matrix"]["additionalProperties"] = {"anyOf": [axis, knobs_below]}
    for model in (schema, *schema["$defs"].values()):
        for name, value in model.get("properties", {}).items():
            if name != "schema" and _is_scalar(value):
                model["properties"][name] = _or_interpolation(value)
    return {"$schema": DIALECT, "title": "accelbench scenario", **schema}


def _is_scalar(schema: dict[str, Any]) -> bool:
    choices = schema.get("anyOf", [schema])
    return all(
        choice.get("type") in ("integer", "number", "boolean", "string", "null")
        for choice in choices
    )


def _or_interpolation(schema: dict[str, Any]) -> dict[str, Any]:
    outside = {key: schema[key] for key in _ANNOTATIONS if key in schema}
    inside = {key: value for key, value in schema.items() if key not in outside}
    return {**outside, "anyOf": [*inside.get("anyOf", [inside]), _INTERPOLATION]}
