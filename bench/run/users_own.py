"""What of the user's own a case uses: images, files, a drive, and the code of a model.

It must be there before anything runs, and is a setting by what it says or where it lies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from bench.backends import users_files
from bench.run import pythons
from bench.run.scrubbing import shareable_path
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Case, Knobs


def check(case: Case) -> None:
    """See to it that the data and the files that a case names are there.

    Raises:
        ScenarioError: one of them is not, or is too small.
    """
    data, least = case.knobs.data, case.knobs.least_resident_pool
    if data.source == "device" and data.pool is not None and data.pool < least:
        raise ScenarioError(
            f"{case.scenario} / {case.case}: data.pool",
            f"{data.pool} is too small: with data.source=device and loader.batches_per_execution="
            f"{case.knobs.loader.batches_per_execution} a graph would hold the whole pool",
            f"set data.pool to {least} or more, or to null",
        )
    for knob, file in users_files.named(case.knobs).items():
        if not file.is_file():
            raise ScenarioError(
                f"{case.scenario} / {case.case}: {knob}",
                f"there is no file {file}",
                f"name one that is there, or set {knob} to null",
            )
    kind, _, path = data.source.partition(":")
    if kind == "folder" and not Path(os.path.expanduser(path)).is_dir():  # noqa: PTH111
        raise ScenarioError(
            f"{case.scenario} / {case.case}: data.source",
            f"there is no folder {path}",
            "name a folder that holds one sub-folder of images per class",
        )


def drive(knobs: Knobs) -> dict[str, str]:
    """Return the drive that a case names, by knob, written as its record will have it.

    A record's case then falls into the series that the record is in.
    """
    path = knobs.zero.nvme_path
    return {} if path is None else {"zero.nvme_path": shareable_path(path)}


def code(model: str, interpreter: str) -> dict[str, str]:
    """Return a digest of the file that a user's own factory is in; empty for a timm model.

    The module is found without importing it. What it imports in turn is not seen.
    """
    name, is_own, _ = model.partition(":")
    if not is_own:
        return {}
    places: Sequence[str] | None = pythons.module_places(interpreter)
    spec = None
    for depth in range(1, name.count(".") + 2):
        parts = name.split(".")[:depth]
        spec = PathFinder.find_spec(".".join(parts), places)
        if spec is None:
            break
        places = spec.submodule_search_locations
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return {"model": "not found"}
    return {"model": hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()}
