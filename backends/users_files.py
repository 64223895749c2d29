"""Files of the user's that a knob names, known by what they say and not by where they lie.

Two files that say the same are one setting. Torch-free: the plan reads them, and the ranks again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.backends import accelerate_config
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Knobs

_DIGITS = 16
_LANGUAGES: Mapping[str, Callable[[str], Any]] = {
    "accelerate.config": yaml.safe_load,
    "zero.config": json.loads,
}


def named(knobs: Knobs) -> dict[str, Path]:
    """Return the files that a case names, by knob."""
    paths = {"accelerate.config": knobs.accelerate.config, "zero.config": knobs.zero.config}
    return {knob: Path(path).expanduser() for knob, path in paths.items() if path is not None}


def read(knob: str, path: Path) -> dict[str, Any]:
    """Return what a file says, key by key.

    Raises:
        ScenarioError: it cannot be read, or holds no keys and values.
    """
    place = f"{knob}={path}"
    remedy = f"name a file that can be, or set {knob} to null"
    try:
        found = _LANGUAGES[knob](path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ScenarioError(place, f"it cannot be read: {error}", remedy) from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise ScenarioError(place, "it holds no keys and values", remedy)
    return found


def digests(knobs: Knobs) -> dict[str, str]:
    """Return the digest of each file that a case names, by knob.

    Raises:
        ScenarioError: a file cannot be read, or holds no keys and values.
    """
    return {knob: digest(knob, path) for knob, path in named(knobs).items()}


def digest(knob: str, path: Path) -> str:
    """Return a digest of what the file of one knob says.

    The order of keys, blanks and comments do not count. Of accelerate's nothing does that acts on
    its own launcher alone: each node of a run has a file of its own.

    Raises:
        ScenarioError: it cannot be read, or holds no keys and values.
    """
    says = read(knob, path)
    if knob == "accelerate.config":
        says = accelerate_config.acting(says)
    try:
        canonical = json.dumps(says, sort_keys=True, separators=(",", ":"), default=str)
    except (TypeError, ValueError) as error:
        # YAML knows keys that are no text, and structures that hold themselves.
        remedy = f"write it as {knob.partition('.')[0]} does"
        raise ScenarioError(f"{knob}={path}", f"it is no configuration: {error}", remedy) from error
    return hashlib.sha256(canonical.encode()).hexdigest()[:_DIGITS]
