"""Reads a YAML file that starts with its `schema` version: scenarios, and price lists.

Whatever is wrong with the file itself is one `ScenarioError` that names it. This module does not
know what a file of any kind may say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.scenarios import yamltext
from bench.scenarios.errors import ScenarioError, shown

_LARGEST = 1_000_000
"""Bytes that no such file reaches."""


def read(path: Path, title: str, *, kind: str, version: int) -> dict[str, Any]:
    """Return the mapping that a file holds.

    Args:
        path: The file.
        title: What messages call it.
        kind: What it should be, as in "a scenario file".
        version: The newest schema that can be read.

    Raises:
        ScenarioError: it cannot be read, is no YAML mapping, or has another schema.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise ScenarioError(title, "there is no such file") from None
    except IsADirectoryError:
        raise ScenarioError(title, "is a folder", "name a YAML file in it") from None
    except OSError as error:
        raise ScenarioError(title, f"cannot be read ({error.strerror})") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ScenarioError(title, "is not a text file (UTF-8)", "name a YAML file") from None
    if len(content) > _LARGEST:
        raise ScenarioError(title, f"is larger than {_LARGEST} bytes", f"name {kind}")
    tree = yamltext.parse(text, title)
    if tree is None:
        raise ScenarioError(title, "is empty", f"start with schema: {version}")
    if not isinstance(tree, dict):
        found = "a list" if isinstance(tree, list) else shown(tree)
        raise ScenarioError(title, f"holds {found} where a mapping belongs", "write key: value")
    _check_version(tree, title, version)
    return tree


def _check_version(tree: dict[str, Any], title: str, known: int) -> None:
    place, version = f"{title}: schema", tree.get("schema")
    if "schema" not in tree:
        raise ScenarioError(place, "is missing", f"write schema: {known} at the top")
    if type(version) is not int or version < 1:
        raise ScenarioError(place, f"{shown(version)} is no version", f"write {known}")
    if version > known:
        raise ScenarioError(
            place,
            f"{version} is newer than what this version reads ({known})",
            "upgrade accelbench",
        )
