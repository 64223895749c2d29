"""A pretended TorchNeuron under the real torch: who imports when, and what the device says."""

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
from tests.backends import neuron_bed

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        not neuron_bed.has_native_torch(), reason="there is no TorchNeuron for this torch, or none"
    ),
]

ROOT = Path(__file__).parents[2]
PROBE = Probe(
    backend="neuron",
    available=True,
    simulated=True,
    flavour="native, simulated",
    facts={"family": "trn2"},
)
FLAGS = {"auto_cast": "all", "auto_cast_type": "fp8_e4m3", "optlevel": 3}


@dataclass(frozen=True)
class Opened:
    said: dict[str, Any]
    log: list[dict[str, Any]]

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.log]


def bed(folder: Path) -> dict[str, str]:
    """Return the environment of a process on such a machine, made where it is not there yet."""
    root, site = folder / "root", folder / "site"
    if not root.exists():
        neuron_bed.machine(root, instance="trn2.3xlarge", cores=8)
        neuron_bed.native_site(site)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NEURON", "XLA", "PJRT", "TORCH_NEURONX"))
    }
    return {**clean, **neuron_bed.environment(root, site, folder / "log")}


def opened(folder: Path, knobs: Knobs, deed: str = "look", **environment: str) -> Opened:
    """Do something to the device of a case, in a child with the environment of the plan."""
    plan = NeuronBackend()
    chosen = plan.environment(knobs, PROBE) | (
        plan.compile_cache(knobs, PROBE, str(folder / "cache")) or {}
    )
    child = subprocess.run(
        [
            *(sys.executable, "-m", "tests.backends.neuron_native_child"),
            *(knobs.model_dump_json(), deed),
        ],
        cwd=ROOT,
        env={**bed(folder), **chosen, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert child.returncode == 0, f"{child.stdout}\n{child.stderr}"
    log = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    return Opened(json.loads(child.stdout.splitlines()[-1]), log)


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    knobs = Knobs.model_validate({"precision": "bf16", "neuron": {"optlevel": 3}, "seed": 3})
    return opened(tmp_path_factory.mktemp("native"), knobs)


def test_a_case_is_chosen_before_torch_imports_torchneuron_by_itself(bf16: Opened) -> None:
    assert bf16.said["before"] == []
    first = bf16.log[0]
    assert first["event"] == "import torch_neuronx"
    assert {
        "NEURON_CC_FLAGS": "--auto-cast=none --optlevel=3",
        "NEURON_COMPILER_OPT_LEVEL": "-O3",
        "NEURON_RT_STOCHASTIC_ROUNDING_EN": "1",
        "NEURON_RT_STOCHASTIC_ROUNDING_SEED": "3",
        "TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION": "1",
        "TORCH_NEURONX_FALLBACK_ONLY_FOR_UNIMPLEMENTED_OPS": "1",
        "NEURON_LAUNCH_BLOCKING": "0",
    }.items() <= first["environment"].items()
    assert first["environment"]["TORCH_NEURONX_NEFF_CACHE_DIR"].endswith("cache/neff")


def test_its_core_is_chosen_before_the_runtime_starts_which_is_not_when_it_is_opened(
    bf16: Opened,
) -> None:
    assert bf16.events == ["import torch_neuronx", "runtime starts"]
    assert bf16.log[1]["environment"]["NEURON_RT_VISIBLE_CORES"] == "0"


def test_the_device_names_its_settings_its_core_and_that_it_is_simulated(bf16: Opened) -> None:
    described = bf16.said["described"]
    assert described["simulated"] is True
    assert (described["flavour"], described["instance"]) == ("native", "trn2.3xlarge")
    assert described["compiler_options"] == {"--auto-cast": "none", "--optlevel": "3"}
    assert described["NEURON_RT_VISIBLE_CORES"] == "0"
    assert described["lnc"] == 2
    assert described["reserved_peak_bytes"] == 64_000_000
    assert bf16.said["process_group"] == "neuron"
    assert bf16.said["torch_device"] == "cpu"


def test_memory_is_the_allocators_read_behind_a_fence(bf16: Opened) -> None:
    assert bf16.said["memory_before_any_fence"] == 0
    assert bf16.said["memory_bytes"] == 5_000_000
    assert bf16.said["peak_memory_bytes"] == 7_000_000


def test_energy_is_unknown_with_its_reason_and_no_clock_is_told(bf16: Opened) -> None:
    assert bf16.said["joules"] is None
    assert bf16.said["no_energy"] == neuron_telemetry.NO_ENERGY
    assert bf16.said["clocks"] is None
    assert bf16.said["mark"] is None


def test_its_peak_is_that_of_a_logical_core(bf16: Opened, tmp_path: Path) -> None:
    assert bf16.said["peak_flops"] == 166.75e12
    one = opened(tmp_path, Knobs.model_validate({"neuron": {"lnc": 1}}))
    assert one.said["peak_flops"] == 83.375e12
    assert one.said["described"]["NEURON_LOGICAL_NC_CONFIG"] == "1"


def test_without_an_operator_on_the_host_none_is_counted(bf16: Opened) -> None:
    assert bf16.said["fallbacks"] == [{}, {}]


def test_an_operator_on_the_host_is_counted_again_in_every_look(tmp_path: Path) -> None:
    found = opened(tmp_path, Knobs(), FAKE_NEURON_FALLS_BACK="aten::erfinv")
    assert found.said["fallbacks"] == [{"aten::erfinv": 1}, {"aten::erfinv": 2}]


def test_a_release_that_lists_none_is_not_taken_for_one_without(bf16: Opened) -> None:
    assert bf16.said["fallbacks_of_another_release"] is None


def test_an_import_that_overrules_the_compilers_options_is_refused(tmp_path: Path) -> None:
    case = Knobs.model_validate({"neuron": FLAGS})
    found = opened(tmp_path, case, FAKE_NEURON_APPENDS="--auto-cast=none")
    assert "NEURON_CC_FLAGS --auto-cast" in found.said["refused"]
    assert "changed what was chosen to none" in found.said["refused"]


def test_options_that_the_user_repeats_are_changed_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_CC_FLAGS", "--verbose=35 --verbose=info")
    found = opened(tmp_path, Knobs())
    options = found.said["described"]["compiler_options"]
    assert options == {"--auto-cast": "none", "--verbose": "info"}


def test_an_import_that_adds_options_of_its_own_is_not(tmp_path: Path) -> None:
    found = opened(tmp_path, Knobs(), FAKE_NEURON_APPENDS="--framework=XLA")
    options = found.said["described"]["compiler_options"]
    assert options == {"--auto-cast": "none", "--framework": "XLA"}


def test_its_group_is_joined_before_anything_starts_the_runtime(tmp_path: Path) -> None:
    found = opened(tmp_path, Knobs(engine="ddp"), "group")
    assert found.said["started"] is False
    assert found.said["backend"] == "neuron"
    assert found.said["evidence"] == "world 1 of 1, all-reduce of rank + 1 gives 1"
    assert found.events == ["import torch_neuronx", "runtime starts"]
    assert "should not be initialized before" in found.said["late"]


def test_torch_compile_is_given_to_its_compiler_and_what_it_compiles_is_counted(
    tmp_path: Path,
) -> None:
    first = opened(tmp_path, Knobs(compile="neuron"), "compile")
    assert first.said["compiler"] == "neuron"
    assert first.said["graph_breaks"] == {}
    assert first.said["uncompiled"] is True
    before, once, twice = first.said["compiles"]
    # Forward and backward: a graph and its program are one compilation.
    assert (before, once, twice) == (0, 2, 2)
    # An operator that is met for the first time is compiled without dynamo.
    assert first.said["compiles_with_an_operators"] == 3
    assert first.said["cached_at_start"] == 0
    second = opened(tmp_path, Knobs(compile="neuron"), "compile")
    assert second.said["cached_at_start"] == 3
    # Dynamo compiles them again, whose programs lie in the cache.
    assert second.said["compiles"] == [0, 2, 2]


def test_on_the_device_itself_type_and_autocast_are_torchneurons(tmp_path: Path) -> None:
    found = opened(tmp_path, Knobs(precision="amp-bf16"), "type")
    assert found.said["torch_device"] == "neuron"
    assert found.said["autocast"] == [True, "torch.bfloat16"]


def test_the_probe_child_finds_the_simulated_cores(tmp_path: Path) -> None:
    answer = tmp_path / "probe.json"
    subprocess.run(
        [sys.executable, "-m", "bench.backends.probe", "neuron", str(answer)],
        cwd=ROOT,
        env=bed(tmp_path),
        check=True,
        timeout=120,
        capture_output=True,
    )
    found = Probe.model_validate_json(answer.read_bytes())
    assert found.available, found.reason
    assert found.simulated
    assert found.flavour == "native, simulated"
    assert found.device_count == 4
    assert found.facts["torch_neuronx"] == neuron_bed.native_version()
    assert found.facts["neuronx_cc"] == neuron_bed.NEURONX_CC
