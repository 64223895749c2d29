"""The JSON Schemas of what this room writes, for readers in other languages and for tests."""

from __future__ import annotations

from typing import Any

from bench.results.prices import PriceList
from bench.results.record import Publication, Record

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def record_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record as it lies in the store."""
    return {"$schema": _DIALECT, **Record.model_json_schema(by_alias=True, mode="serialization")}


def publication_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a file of published numbers."""
    return {"$schema": _DIALECT, **Publication.model_json_schema(by_alias=True)}


def prices_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a price file."""
    return {"$schema": _DIALECT, **PriceList.model_json_schema(by_alias=True)}
