"""A launch of the 3 ms ViT in this process, with a lie planted into its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.backends.base import World
from bench.results.record import CheckResult, Launch, Weight
from bench.worker import session
from bench.worker.events import Events
from tests.worker.a_job import a_case, a_job

SHARED_MACHINE = {"steady_state", "fence_waits"}
"""What a machine that others use may fail without any lie."""


def launched(folder: Path, *, diagnose: bool = True, budget_s: float = 0.6, **knobs: Any) -> Launch:
    """Run one launch."""
    case = a_case(knobs, {"budget_s": budget_s})
    job = a_job(folder, case, diagnose=diagnose, seed=3)
    launch = session.run(job, World(), Events(0), import_s=0.0)
    assert launch is not None
    return launch


def caught(launch: Launch) -> set[str]:
    """Return the names of the checks that make the launch suspect, whoever else is running."""
    failed = {
        check.name
        for check in launch.audit
        if check.result is CheckResult.FAIL and check.weight is Weight.SUSPECT
    }
    return failed - SHARED_MACHINE


def words(launch: Launch, name: str) -> str:
    """Return the evidence of one check."""
    [evidence] = [check.evidence for check in launch.audit if check.name == name]
    return evidence
