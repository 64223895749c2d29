"""Launches on real torch_xla with a lie planted, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.backends.base import World
from bench.backends.xla import XlaBackend
from bench.results.record import Launch
from bench.worker import session
from bench.worker.events import Events
from bench.worker.job import Job
from tests.backends.xla_child import ON_CPU, ROOT, TIMEOUT_S
from tests.lies import xla_plants
from tests.worker.a_job import a_case, a_job


def launched(plant: str, **knobs: Any) -> Launch:
    """Run one launch of the 3 ms ViT with a function of `xla_plants` called before it."""
    with tempfile.TemporaryDirectory() as name:
        case = a_case(knobs, {"budget_s": 2.0})
        job = a_job(Path(name), case, diagnose=True).model_copy(
            update={"backend": "xla", "probe": ON_CPU}
        )
        child = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.lies.xla_runs",
                plant,
                job.model_dump_json(by_alias=True),
            ],
            cwd=ROOT,
            env=os.environ | XlaBackend().environment(case.knobs, ON_CPU),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert child.returncode == 0, f"{plant} failed:\n{child.stdout}\n{child.stderr}"
    return Launch.model_validate_json(child.stdout.splitlines()[-1])


def main() -> None:
    """Plant the lie, run the job, and print the launch."""
    plant, text = sys.argv[1:]
    getattr(xla_plants, plant)()
    launch = session.run(Job.model_validate_json(text), World(), Events(0), import_s=0.0)
    assert launch is not None
    print(json.dumps(launch.model_dump(mode="json", by_alias=True)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
