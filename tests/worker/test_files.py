"""Files of the user's that change between the plan and a launch: no row is made of those."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.backends import users_files
from bench.backends.base import World
from bench.backends.cpu import CpuDevice
from bench.worker import building
from bench.worker.job import Job
from bench.workload.errors import BadCase
from tests.worker.a_job import a_case, a_job

pytestmark = pytest.mark.torch


def job_of(folder: Path, path: Path) -> Job:
    knobs: dict[str, Any] = {"engine": "accelerate", "accelerate": {"config": str(path)}}
    case = a_case(knobs | {"model": "nowhere:build"})
    return a_job(folder, case).model_copy(update={"contents": users_files.digests(case.knobs)})


def build(job: Job) -> None:
    building.build(job, World(), CpuDevice(1))


def test_a_file_that_says_what_was_planned_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("distributed_type: NO\n", encoding="utf-8")
    job = job_of(tmp_path, path)
    path.write_text("# The same.\ndistributed_type: NO\n", encoding="utf-8")
    with pytest.raises(BadCase, match="nowhere"):
        build(job)


def test_a_file_that_says_something_else_by_now_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("distributed_type: NO\n", encoding="utf-8")
    job = job_of(tmp_path, path)
    path.write_text("{}\n", encoding="utf-8")
    with pytest.raises(BadCase, match=f"accelerate.config={path}: it says something else than"):
        build(job)
    path.unlink()
    with pytest.raises(BadCase, match=f"accelerate.config={path}: it cannot be read"):
        build(job)
