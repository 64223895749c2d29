"""Real torch_xla with pretended Neuron packages: who imports when, and what the device says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.backends import neuron_telemetry
from bench.backends.base import Probe
from bench.backends.neuron import NeuronBackend
from bench.scenarios.schema import Knobs
from tests.backends import neuron_bed, xla_child

pytestmark = [
    pytest.mark.xla,
    pytest.mark.skipif(not xla_child.INSTALLED, reason="torch_xla is not installed"),
]

PROBE = Probe(
    backend="neuron",
    available=True,
    simulated=True,
    flavour="xla, simulated",
    facts={"pjrt": "CPU", "family": "inf2"},
)
FLAGS = {"auto_cast": "none", "model_type": "transformer", "optlevel": 3}


@dataclass(frozen=True)
class Opened:
    said: dict[str, Any]
    log: list[dict[str, Any]]


def opened(folder: Path, knobs: Knobs, **environment: str) -> Opened:
    """Open the device of a case in a child whose environment is the one that the plan chooses."""
    bed = neuron_bed.environment(
        neuron_bed.machine(folder / "root"), neuron_bed.site(folder / "site"), folder / "log"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NEURON", "XLA", "PJRT"))}
    child = subprocess.run(
        [sys.executable, "-m", "tests.backends.neuron_child", knobs.model_dump_json()],
        cwd=xla_child.ROOT,
        env={**clean, **bed, **NeuronBackend().environment(knobs, PROBE), **environment},
        capture_output=True,
        text=True,
        timeout=xla_child.TIMEOUT_S,
        check=False,
    )
    assert child.returncode == 0, f"{child.stdout}\n{child.stderr}"
    log = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    return Opened(json.loads(child.stdout.splitlines()[-1]), log)


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    knobs = Knobs.model_validate({"precision": "bf16-env", "neuron": FLAGS, "seed": 3})
    return opened(tmp_path_factory.mktemp("neuron"), knobs)


def test_everything_is_chosen_before_the_first_neuron_package_is_imported(bf16: Opened) -> None:
    assert bf16.said["before"] == []
    first = bf16.log[0]
    assert first["event"] == "import libneuronxla"
    assert {
        "PJRT_DEVICE": "CPU",
        "XLA_USE_BF16": "1",
        "XLA_DOWNCAST_BF16": "0",
        "XLA_DISABLE_FUNCTIONALIZATION": "1",
        "NEURON_CC_FLAGS": "--auto-cast=none --model-type=transformer --optlevel=3",
        "NEURON_RT_STOCHASTIC_ROUNDING_EN": "1",
        "NEURON_RT_STOCHASTIC_ROUNDING_SEED": "3",
        "NEURON_RT_VISIBLE_CORES": "0",
        "NEURON_PJRT_PROCESS_INDEX": "0",
        "NEURON_PJRT_PROCESSES_NUM_DEVICES": "1",
    }.items() <= first["environment"].items()


def test_torch_xla_imports_them_and_they_change_the_environment(bf16: Opened) -> None:
    events = [line["event"] for line in bf16.log]
    assert events == [
        "import libneuronxla",
        "import torch_neuronx",
        "torch_neuronx.xla.init",
        "libneuronxla.configure_environment",
    ]
    assert "NEURON_LIBRARY_PATH" not in bf16.log[0]["environment"]
    assert bf16.log[1]["environment"]["NEURON_LIBRARY_PATH"] == "/nowhere/libneuronpjrt.so"


def test_the_environment_is_chosen_in_time_to_act(bf16: Opened) -> None:
    assert bf16.said["proven"]["float32_stored_as"] == "bfloat16"


def test_the_device_names_its_settings_its_core_and_that_it_is_simulated(bf16: Opened) -> None:
    described = bf16.said["described"]
    assert described["simulated"] is True
    assert (described["flavour"], described["instance"]) == ("xla", "inf2.xlarge")
    assert described["compiler_options"] == {
        "--auto-cast": "none",
        "--model-type": "transformer",
        "--optlevel": "3",
    }
    assert described["NEURON_RT_VISIBLE_CORES"] == "0"
    assert described["telemetry"] == "sysfs"
    assert described["device_power_percent"] == 25.25
    assert bf16.said["process_group"] == "xla"


def test_memory_is_the_cores_and_energy_is_unknown_with_its_reason(bf16: Opened) -> None:
    assert bf16.said["memory_bytes"] == neuron_bed.USED_BYTES
    assert bf16.said["joules"] is None
    assert bf16.said["no_energy"] == neuron_telemetry.NO_ENERGY
    assert bf16.said["clocks"] is None


def test_its_peak_is_that_of_the_core_that_was_opened(bf16: Opened) -> None:
    assert bf16.said["peak_flops_simulated"] is None
    assert bf16.said["peak_flops"] == 95e12


def test_an_import_that_overrules_the_compilers_options_is_refused(tmp_path: Path) -> None:
    found = opened(tmp_path, Knobs(), FAKE_NEURON_APPENDS="--auto-cast=matmult")
    assert "NEURON_CC_FLAGS --auto-cast" in found.said["refused"]
    assert "changed what was chosen to matmult" in found.said["refused"]


def test_an_import_that_adds_options_of_its_own_is_not_and_they_are_told_without_folders(
    tmp_path: Path,
) -> None:
    added = "--framework=XLA --dump=/home/vera/graphs"
    found = opened(tmp_path, Knobs(), FAKE_NEURON_APPENDS=added)
    assert found.said["described"]["compiler_options"] == {
        "--auto-cast": "none",
        "--dump": "<path>",
        "--framework": "XLA",
    }
    assert found.said["proven"]["float32_stored_as"] == "float32"


def test_the_probe_child_finds_the_simulated_core(tmp_path: Path) -> None:
    bed = neuron_bed.environment(
        neuron_bed.machine(tmp_path / "root"), neuron_bed.site(tmp_path / "site")
    )
    answer = tmp_path / "probe.json"
    command = [sys.executable, "-m", "bench.backends.probe", "neuron", str(answer)]
    subprocess.run(
        command,
        cwd=xla_child.ROOT,
        env={**os.environ, **bed},
        check=True,
        timeout=120,
        capture_output=True,
    )
    found = Probe.model_validate_json(answer.read_bytes())
    assert found.available, found.reason
    assert found.simulated
    assert found.device_count == 2
    assert found.facts["neuronx_cc"] == neuron_bed.NEURONX_CC
