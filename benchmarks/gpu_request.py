"""What is asked of `gpu_check.py`: which parts with which cases and settings, and what is refused.

Everything here happens before anything is measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from sides import Workload

from bench.backends.base import Probe
from bench.run.plan import plan
from bench.scenarios.compose import load
from bench.scenarios.errors import ScenarioError, did_you_mean
from bench.scenarios.overrides import keys_given

ROOT = Path(__file__).parents[1]
RUNGS = Path(__file__).with_name("gpu_rungs.yaml")
PARTS = ("tests", "ladder", "beside", "rungs")
SCENARIOS = {"ladder": "vit-ladder", "rungs": str(RUNGS)}
"""The parts that run one."""
_OPTIONS = {
    "batch_size": "--batch-size",
    "measure.budget_s": "--seconds",
    "measure.launches": "--launches",
    **dict.fromkeys(("model", "model_kwargs", "image_size", "classes"), "--model"),
}
"""Settings that all parts share, with the option for each."""
_KNOWN_TO_THE_LOOP = {"threads"}
_COMPLETE: Mapping[str, JsonValue] = {
    "torchao": True,
    "triton": True,
    "cc": "cc",
    "cxx": "c++",
    "tf32_forbidden": False,
}
"""What a probe tells where nothing that an adapter asks for is missing, or switched off."""


class Failed(Exception):  # noqa: N818 - told with its reason
    """A part of the check gave no result."""


@dataclass(frozen=True)
class Check:
    """What is checked, and how long it may take."""

    backend: str
    workload: Workload
    batch_size: int
    results: Path
    rungs: list[str]
    """Names of cases to run, of the ladder and of ours; empty: all."""
    settings: list[str]
    """As after `bench run --set`."""
    tests: str
    launches: int
    seconds: float
    """Inside windows, per case."""
    pairs: int


def left_out(check: Check, skipped: Iterable[str]) -> dict[str, str]:
    """Return the parts that are not to be run, in their order, and why each is not."""
    unnamed = {
        part: f"no --rung names a case of {Path(scenario).stem}"
        for part, scenario in SCENARIOS.items()
        if check.rungs and not cases_asked(check, scenario)
    }
    reasons = unnamed | dict.fromkeys(skipped, "--skip")
    return {part: reasons[part] for part in PARTS if part in reasons}


def cases_asked(check: Check, scenario: str) -> list[str]:
    """Return the cases of a scenario that the command line names."""
    names = _cases(scenario)
    return [name for name in check.rungs if name in names]


def settings_of(check: Check, part: str) -> list[str]:
    """Return what a part sets of its scenario, as after `bench run --set`.

    The public ladder's first rungs run at our batch, and the later ones at half of it.
    """
    half = max(1, check.batch_size // 2)
    own = [f"ladder[batch-size].set.batch_size={half}"] if part == "ladder" else []
    shared = [f"{name}={json.dumps(value)}" for name, value in model_of(check.workload).items()]
    shared += [f"batch_size={check.batch_size}", f"measure.budget_s={check.seconds}"]
    return [*shared, f"measure.launches={check.launches}", *own, *check.settings]


def beyond(check: Check, probe: Probe, part: str) -> set[str]:
    """Return the cases of a part that such a device refuses, whatever is installed beside it."""
    complete = probe.model_copy(update={"facts": {**probe.facts, **_COMPLETE}})
    scenario = load(SCENARIOS[part], settings_of(check, part))
    return {planned.case.case for planned in plan([scenario], [complete], {}) if planned.refusals}


def unwatched(check: Check, part: str) -> str | None:
    """Return the setting by which no row of a part tells whether it learns; null: there is none."""
    scenario = load(SCENARIOS[part], settings_of(check, part))
    if scenario.task != "train":
        return f"task={scenario.task}"
    return None if scenario.measure.health else "measure.health=false"


def model_of(workload: Workload) -> Mapping[str, Any]:
    """Return the knobs that say what is trained."""
    return {
        "model": workload.model,
        "model_kwargs": workload.model_kwargs,
        "image_size": workload.image_size,
        "classes": workload.classes,
    }


def refuse(check: Check, parts: Sequence[str]) -> None:
    """Refuse names of no case, and settings that these parts cannot honour.

    Raises:
        ScenarioError: there are some; it names the first.
    """
    known = [name for scenario in SCENARIOS.values() for name in _cases(scenario)]
    for name in check.rungs:
        if name not in known:
            raise ScenarioError(
                f"--rung {name}", "is a case of neither scenario", did_you_mean(name, known)
            )
    for key in keys_given(check.settings):
        if key in _OPTIONS:
            raise ScenarioError(f"--set {key}", "is the same in every part", f"use {_OPTIONS[key]}")
        # `measure` says how rows are measured, and pairs have a protocol of their own.
        if "beside" in parts and key not in _KNOWN_TO_THE_LOOP and not key.startswith("measure."):
            raise ScenarioError(
                f"--set {key}",
                "timm's loop, which the harness is held against, does not know it",
                "leave it out, or that part with --skip beside",
            )
    for part, scenario in SCENARIOS.items():
        if part in parts or (part == "rungs" and "beside" in parts):
            load(scenario, settings_of(check, part))


def _cases(scenario: str) -> list[str]:
    found = load(scenario)
    return [*(rung.rung for rung in found.ladder), *(entry.case for entry in found.cases)]
