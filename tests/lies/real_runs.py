"""A launch of the 3 ms ViT in this process, with a lie planted into its parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.backends.base import World
from bench.results.record import Check, CheckResult, Launch, Weight
from bench.worker import session
from bench.worker.events import Events
from tests.worker.a_job import a_case, a_job, give_memory_back

SHARED_MACHINE = {"steady_state", "fence_waits"}
"""What a machine that others use may fail without any lie; `first_passing` is for their control."""
_TRIES = 3


def launched(folder: Path, *, diagnose: bool = True, budget_s: float = 0.6, **knobs: Any) -> Launch:
    """Run one launch."""
    give_memory_back()
    case = a_case(knobs, {"budget_s": budget_s})
    job = a_job(folder, case, diagnose=diagnose, seed=3)
    launch = session.run(job, World(), Events(0), import_s=0.0)
    assert launch is not None
    return launch


def first_passing(name: str, launch: Callable[[], Launch]) -> Launch:
    """Return the first of a few launches that pass a check: others may spoil one, and not all."""
    seen = []
    for _ in range(_TRIES):
        found = launch()
        if result(found, name) is CheckResult.PASS:
            return found
        seen.append(words(found, name))
    raise AssertionError(f"{name} failed in {_TRIES} launches: {seen}")


def caught(launch: Launch) -> set[str]:
    """Return the names of the checks that make the launch suspect, whoever else is running."""
    failed = {
        check.name
        for check in launch.audit
        if check.result is CheckResult.FAIL and check.weight is Weight.SUSPECT
    }
    return failed - SHARED_MACHINE


def result(launch: Launch, name: str) -> CheckResult:
    """Return the result of one check."""
    return _check(launch, name).result


def words(launch: Launch, name: str) -> str:
    """Return the evidence of one check."""
    return _check(launch, name).evidence


def _check(launch: Launch, name: str) -> Check:
    [check] = [check for check in launch.audit if check.name == name]
    return check
