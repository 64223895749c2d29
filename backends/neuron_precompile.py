"""Precompiling for Neuron under torch_xla: graphs are noted on the cores, and compiled on the host.

It is what AWS's `neuron_parallel_compile` does, on the cache of one case: under these variables
libneuronxla puts every graph into the cache as it is and executes none, and its parallel compiler
then compiles what it finds there. A graph that was compiled lies beside its `model.neff`; one that
cannot be compiled has left `model.log`, the compiler's words. Torch-free.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from bench.backends import neuron_cores, neuron_environment
from bench.backends.base import CompileFailed, Precompilation, Probe, Refusal
from bench.backends.temporary import temporary_folder
from bench.scenarios.schema import Knobs

NOTE_ONLY = {"NEURON_EXTRACT_GRAPHS_ONLY": "1", "NEURON_FALL_BACK_TO_NULL_NEFF": "1"}
_COMPILER_BYTES = 64 * 2**30
"""What `neuron_parallel_compile` reckons for one process of the compiler."""
_SHOWN_LINES = 20
_KILLED = "[F137]"
"""In the log of a compiler that a signal ended, 137 being 128 + SIGKILL: the kernel was short of
memory, which what ran beside it may have been to blame for."""
_SIMULATED = (
    "the simulation compiles by PJRT CPU, which cannot load a compile cache: every launch compiles "
    "anew"
)

Compile = Callable[[Path, Path, int], None]
"""Compiles every graph of a cache that is not compiled yet: scratch folder, cache, how many at
once."""


def of_case(
    knobs: Knobs, probe: Probe, variables: Mapping[str, str], memory_bytes: int | None = None
) -> Precompilation | Refusal:
    """Return how a case is precompiled: on cores of its own, several cases at once.

    A case whose ranks exchange gradients executes its steps and compiles them as it goes: on a
    device that computes nothing, DDP's check that all ranks hold the same model would fail. It runs
    alone, since all groups of this machine meet at one port.

    Args:
        knobs: Of the case.
        probe: As it found the machine.
        variables: The user's environment.
        memory_bytes: Of the machine; null: as it is found.
    """
    if probe.simulated:
        return Refusal(knob="--precompile", value=True, reason=_SIMULATED)
    if knobs.engine != "plain":
        return Precompilation(alone=True)
    memory = psutil.virtual_memory().total if memory_bytes is None else memory_bytes
    return replace(
        neuron_cores.handed_out(knobs, probe, variables),
        variables=NOTE_ONLY,
        notes=True,
        compilers=math.ceil(memory / _COMPILER_BYTES),
    )


def compile_noted(jobs: int, run: Compile | None = None) -> int:
    """Compile the graphs in the cache that the environment names; returns how many there were.

    Args:
        jobs: How many to compile at once.
        run: What compiles them; null: libneuronxla.

    Raises:
        CompileFailed: the compiler gave one of them up, and says why.
        RuntimeError: there is none, or one is neither compiled nor given up: no verdict on it.
    """
    cache = Path(os.environ[neuron_environment.CACHE])
    graphs = sorted(cache.glob("neuronxcc-*/MODULE_*"))
    if not graphs:
        raise RuntimeError(
            "the untimed run left no graph where one is looked for (neuronxcc-*/MODULE_*): this "
            f"release of libneuronxla may not heed {', '.join(NOTE_ONLY)}, or lay out its cache "
            "otherwise"
        )
    with temporary_folder("bench-compile-") as scratch:
        (run or _by_libneuronxla)(scratch, cache, jobs)
    left = {graph: list(_said(graph)) for graph in graphs if not _compiled(graph)}
    for graph, lines in left.items():
        print(f"{graph.name}:", *lines[-_SHOWN_LINES:], sep="\n", flush=True)
    given_up = [lines for lines in left.values() if lines and not _was_killed(lines)]
    if given_up:
        raise CompileFailed(
            f"{len(given_up)} of {len(graphs)} graphs cannot be compiled by neuronx-cc: "
            f"{given_up[0][-1]}"
        )
    if left:
        raise RuntimeError(
            f"{len(left)} of {len(graphs)} graphs are not compiled, and neuronx-cc gives no reason "
            "of its own: it may have been killed for want of memory"
        )
    return len(graphs)


def _by_libneuronxla(scratch: Path, cache: Path, jobs: int) -> None:
    from libneuronxla.neuron_cc_cache import CacheUrl
    from libneuronxla.neuron_parallel_compile import parallel_compile

    # Its own command line would use one scratch folder for all who compile at the same time.
    parallel_compile(str(scratch), CacheUrl.get_cache_url(str(cache)), jobs)


def _compiled(graph: Path) -> bool:
    return (graph / "model.neff").exists() and not (graph / "model.log").exists()


def _was_killed(lines: Sequence[str]) -> bool:
    return any(_KILLED in line for line in lines)


def _said(graph: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        text = (graph / "model.log").read_text(encoding="utf-8", errors="replace")
        yield from (line for line in text.splitlines() if line.strip())
