"""Runs experiments on real torch_xla, each group in a process of its own, and reports figures.

torch_xla fixes its device, types and threads for the life of a process, so no two environments can
share one. The parent asserts on the figures; the child only measures. The child's environment is
what `XlaBackend.environment` chooses, so that half is tested too.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.backends.base import Probe, World
from bench.backends.xla import XlaBackend
from bench.scenarios.schema import Knobs

INSTALLED = importlib.util.find_spec("torch_xla") is not None
ROOT = Path(__file__).resolve().parents[2]
ON_CPU = Probe(backend="xla", available=True, flavour="CPU", facts={"pjrt": "CPU"})
TIMEOUT_S = 280


def run(experiment: str, case: Knobs | None = None, **environment: str) -> dict[str, Any]:
    """Run `tests.backends.MODULE.FUNCTION` in a child and return its figures."""
    case = case or Knobs()
    chosen = XlaBackend().environment(case, ON_CPU) | environment
    child = subprocess.run(
        [sys.executable, "-m", "tests.backends.xla_child", experiment, case.model_dump_json()],
        cwd=ROOT,
        env=os.environ | chosen,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert child.returncode == 0, f"{experiment} failed:\n{child.stdout}\n{child.stderr}"
    figures: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Open the device as a worker does, run the experiment, and leave past the exit handlers."""
    experiment, text = sys.argv[1:]
    case = Knobs.model_validate_json(text)
    device = XlaBackend().open(case, World())
    module, _, function = experiment.partition(".")
    figures = getattr(importlib.import_module(f"tests.backends.{module}"), function)(device, case)
    device.close()
    print(json.dumps(figures), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
