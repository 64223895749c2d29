"""A job for one launch of the 3 ms ViT, and its parts opened in this process."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

from bench.backends.base import Probe
from bench.scenarios.schema import Case, Knobs, Measure
from bench.worker.job import Job
from tests.small_vit import SMALL_VIT

PROBE = Probe(backend="cpu", available=True, device_count=1)
SHORT: dict[str, Any] = {"launches": 1, "budget_s": 0.6, "windows": 3, "warmup_s": 0.2}


def a_case(knobs: dict[str, Any] | None = None, measure: dict[str, Any] | None = None) -> Case:
    """Return a case of the small ViT with some settings changed."""
    return Case(
        scenario="test",
        case="small-vit",
        knobs=Knobs.model_validate({**SMALL_VIT, "data": {"source": "cached"}, **(knobs or {})}),
        measure=Measure.model_validate({**SHORT, **(measure or {})}),
    )


def a_job(folder: Path, case: Case | None = None, *, diagnose: bool = False, seed: int = 0) -> Job:
    """Return a launch of the case on the CPU."""
    return Job(
        case=case or a_case(),
        backend="cpu",
        probe=PROBE,
        index=0,
        seed=seed,
        session="session-1",
        round=0,
        diagnose=diagnose,
        cache="none",
        folder=str(folder),
    )


def give_memory_back() -> None:
    """Return to the system what tests before left free in this process; a launch has none of it.

    A leak would eat that first, and no reading would rise meanwhile. Source: malloc_trim(3).
    """
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
