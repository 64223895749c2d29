"""A lie that DDP tells on Neuron's torch_xla, without an error: it trains, and otherwise.

Real torch_xla on PJRT CPU, a group of one, functionalization off as torch-neuronx has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bench.backends import xla
from tests.backends.xla_child import INSTALLED, ROOT, TIMEOUT_S

pytestmark = [
    pytest.mark.xla,
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="torch_xla is not installed"),
]

Losses = dict[str, list[list[float]]]
"""By the way of training, then by accumulation (1 and 2), then by update."""


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> Losses:
    meeting = tmp_path_factory.mktemp("ddp") / "meeting"
    child = subprocess.run(
        [sys.executable, "-m", "tests.lies.neuron_ddp", str(meeting)],
        cwd=ROOT,
        env={**os.environ, **xla.device_environment("CPU"), "XLA_DISABLE_FUNCTIONALIZATION": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert child.returncode == 0, f"{child.stdout}\n{child.stderr}"
    found: Losses = json.loads(child.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("accumulation", [1, 2])
def test_told_the_devices_options_ddp_trains_as_one_process_does(
    losses: Losses, accumulation: int
) -> None:
    alone, told = (losses[way][accumulation - 1] for way in ("plain", "ddp as on the device"))
    assert told == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_without_them_it_does_not_and_says_nothing(losses: Losses, accumulation: int) -> None:
    """The fault that the options are for: were it mended one day, they could go."""
    alone, untold = (losses[way][accumulation - 1] for way in ("plain", "ddp"))
    assert untold[-1] - alone[-1] > 1e-3
