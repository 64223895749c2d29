"""`torchrun ... -m bench` from the checkout's own folder: the linked rooms are found there too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "bench")


@pytest.mark.torch
@pytest.mark.slow
def test_torchrun_from_the_checkout_runs_the_code_that_lies_there() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *TORCHRUN, "list", "scenarios"],
        cwd=CHECKOUT,
        env=environment | {"PYTHONVERBOSE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "quick" in done.stdout
    for room in ("scenarios", "backends", "results"):
        assert f"{CHECKOUT}/bench/{room}/__init__.py" in done.stderr
