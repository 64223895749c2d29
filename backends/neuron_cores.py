"""How many NeuronCores there are, and how many physical ones make a logical one.

The driver counts physical cores: two on a chip of Inferentia2 or Trainium1, eight on one of
Trainium2. The runtime numbers logical ones, NEURON_RT_VISIBLE_CORES included, each made of one
physical core or of two. Torch-free.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from bench.backends import neuron_machine, neuron_sysfs
from bench.backends.base import Precompilation, Probe
from bench.backends.neuron_environment import LNC, VISIBLE, visible_cores
from bench.scenarios.schema import Knobs

UNTOLD = (
    "neither the driver's files nor neuron-ls tell how many NeuronCores there are: one has been "
    "opened, and no number of processes is refused"
)
SHOWN, PHYSICAL = "cores_shown", "physical_cores"
"""Facts of a probe: the cores that the user shows (null: all), and how many there are (null: not
told)."""
_OF_TWO = ("trn2", "trn3")
"""Beginnings of the families whose logical cores are made of two physical ones unless told
otherwise."""
_LS_TIMEOUT_S = 20.0


def lnc(family: str | None, variables: Mapping[str, str]) -> int | None:
    """Return how many physical cores make a logical one; null: neither variable nor family tells.

    Args:
        family: Of the instance, as in trn2.
        variables: The environment of the process that uses them.
    """
    written = variables.get(LNC, "")
    if written.isdigit():
        return int(written)
    return None if family is None else _default(family)


def facts(
    root: Path, variables: Mapping[str, str], listed: Callable[[], int | None] | None = None
) -> dict[str, JsonValue]:
    """Return what a probe tells of the cores.

    Args:
        root: The file system in which the driver shows them.
        variables: The user's environment.
        listed: Returns how many physical ones a program lists; null: neuron-ls is asked.

    Raises:
        ValueError: the user's list of cores is none.
    """
    shown = visible_cores(variables.get(VISIBLE, ""))
    there = len(neuron_sysfs.cores(root)) or neuron_sysfs.core_count(root)
    return {
        SHOWN: None if shown is None else list(shown),
        PHYSICAL: there or (listed or neuron_ls)(),
    }


def count(told: Mapping[str, JsonValue], cores_in_one: int) -> int | None:
    """Return how many logical cores there are for us; null: it is not told.

    Args:
        told: Facts of a probe.
        cores_in_one: Physical cores in a logical one.
    """
    shown, physical = told.get(SHOWN), told.get(PHYSICAL)
    if isinstance(shown, list):
        return len(shown)
    return physical // cores_in_one if isinstance(physical, int) else None


def for_case(knobs: Knobs, probe: Probe) -> int | None:
    """Return how many logical cores a case may have ranks on; null: it is not told."""
    if PHYSICAL not in probe.facts:
        return probe.device_count
    return count(probe.facts, _in_one(knobs, probe))


def of_machine(knobs: Knobs, probe: Probe) -> int | None:
    """Return how many logical cores a case finds on the machine, shown to us or not; null: unknown.

    As `for_case` has it, but for the cores that the user shows.
    """
    physical = probe.facts.get(PHYSICAL)
    return physical // _in_one(knobs, probe) if isinstance(physical, int) else None


def handed_out(knobs: Knobs, probe: Probe, variables: Mapping[str, str]) -> Precompilation:
    """Return how untimed runs get cores of their own.

    A case that has logical cores made otherwise than the machine by itself runs alone: they are
    numbered anew, and two numbers may be one physical core.

    Args:
        knobs: Of the case.
        probe: As it found the machine.
        variables: The user's environment.
    """
    if _in_one(knobs, probe) != _by_default(probe):
        return Precompilation(alone=True)
    cores = visible_cores(variables.get(VISIBLE, "")) or range(for_case(knobs, probe) or 1)
    return Precompilation(devices=tuple(map(str, cores)), shown_by=VISIBLE)


def neuron_ls() -> int | None:
    """Return how many physical cores AWS's program of that name lists; null: it does not tell."""
    command = neuron_machine.program("neuron-ls")
    if command is None:
        return None
    try:
        done = subprocess.run(
            [command, "--json-output"],
            capture_output=True,
            text=True,
            timeout=_LS_TIMEOUT_S,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return listed(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # it is there, and cannot tell


def listed(document: str) -> int | None:
    """Return how many physical cores a document of neuron-ls holds; null: it holds no device.

    Its cores are logical ones. Releases that know no others do not say of how many they are made.

    Raises:
        ValueError: it is no document of neuron-ls.
    """
    found: Any = json.loads(document)
    try:
        sizes = [
            int(one["nc_count"]) * int(one.get("logical_neuroncore_config") or 1) for one in found
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a document of neuron-ls") from error
    return sum(sizes) or None


def _in_one(knobs: Knobs, probe: Probe) -> int:
    """Return how many physical cores make a logical one of a case."""
    return knobs.neuron.lnc or _by_default(probe)


def _by_default(probe: Probe) -> int:
    family = probe.facts.get("family")
    return _default(family) if isinstance(family, str) else 1


def _default(family: str) -> int:
    return 2 if family.startswith(_OF_TWO) else 1
