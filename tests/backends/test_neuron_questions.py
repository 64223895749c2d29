"""On a NeuronCore under TorchNeuron: what the adapter relies on and nobody has written down.

Run by `tox -e neuron-device-native`. An answer that is another than expected names what to change.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.backends.base import Probe
from bench.backends.neuron import NeuronBackend
from bench.backends.neuron_machine import NATIVE, Machine
from bench.scenarios.schema import Knobs
from tests import devices
from tests.backends.neuron_bed import ANSWER

ROOT = Path(__file__).parents[2]
HERE = Machine.here(None, importlib.metadata.version)

pytestmark = [
    pytest.mark.neuron,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not devices.has_neuron() or HERE.flavour() != NATIVE,
        reason="no TorchNeuron on a Neuron device here: run tox -e neuron-device-native",
    ),
]
PROBE = Probe(backend="neuron", available=True, flavour=NATIVE, facts={"family": HERE.family()})


def asked(question: str, folder: Path, knobs: Knobs | None = None, **environment: str) -> Any:
    case, plan = knobs or Knobs(), NeuronBackend()
    chosen = plan.environment(case, PROBE)
    chosen |= plan.compile_cache(case, PROBE, str(folder)) or {}
    child = subprocess.run(
        [sys.executable, "-m", "tests.backends.neuron_questions", question],
        cwd=ROOT,
        env={**os.environ, **chosen, **environment},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    lines = [line for line in child.stdout.splitlines() if line.startswith(ANSWER)]
    assert lines, f"{child.stdout}\n{child.stderr}"
    return json.loads(lines[-1].removeprefix(ANSWER))


def test_a_host_batch_may_be_overwritten_once_it_was_sent(tmp_path: Path) -> None:
    """Else `feed` must copy with non_blocking=False."""
    assert asked("a_copy_may_be_overwritten", tmp_path) == [0.0, 1.0, 2.0, 3.0]


def test_the_allocator_counts_tensors_and_forgets_its_peak(tmp_path: Path) -> None:
    told = asked("memory", tmp_path)
    size = 64 * 2**20
    assert told["during"] - told["before"] >= size
    assert told["peak"] >= told["during"]
    assert told["after"] < told["peak"]


def test_stochastic_rounding_acts_where_it_is_asked_for_and_nowhere_else(tmp_path: Path) -> None:
    by_chance = Knobs.model_validate({"neuron": {"stochastic_rounding": True}})
    assert asked("rounding", tmp_path) == 1
    assert asked("rounding", tmp_path, by_chance) == 2


def test_a_compiled_program_is_a_file_in_the_cache_and_found_again(tmp_path: Path) -> None:
    cold, warm = asked("programs", tmp_path), asked("programs", tmp_path)
    assert cold[0] == 0
    assert cold[1] > 0
    assert warm == [cold[1], cold[1]]


def test_the_level_of_the_compiler_is_heeded(tmp_path: Path) -> None:
    """A program that was compiled otherwise is another program."""
    _, plain = asked("programs", tmp_path, NEURON_COMPILER_OPT_LEVEL="-O1")
    _, both = asked("programs", tmp_path, NEURON_COMPILER_OPT_LEVEL="-O3")
    assert both > plain


def test_the_options_of_the_compiler_are_heeded(tmp_path: Path) -> None:
    cast = Knobs.model_validate({"neuron": {"auto_cast": "all"}})
    _, plain = asked("programs", tmp_path)
    _, both = asked("programs", tmp_path, cast)
    assert both > plain


def test_operators_that_ran_on_the_host_are_listed(tmp_path: Path) -> None:
    product, solved = asked("fallbacks", tmp_path)
    assert product == {}
    assert solved


def test_autocast_casts_on_this_device(tmp_path: Path) -> None:
    assert asked("autocast", tmp_path) == "torch.bfloat16"
