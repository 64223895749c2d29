"""What TorchNeuron, its compiler and the runtime are told through the environment.

torch imports TorchNeuron by itself, so that the variables of a case stand before torch does; those
of a rank stand before the runtime starts, which the first use of the device does.

AWS's reference of the variables (Neuron 2.33) lists NO_COMPILED_FALLBACK. The others are read in
TorchNeuron's sources as they were public in April 2026, before its first release: NEURON_CC_FLAGS
is appended there to `--model-type transformer --auto-cast=none`, for operators and for
torch.compile alike, and the level is -O1 for operators and -O2 for torch.compile unless OPT_LEVEL
says otherwise. The hardware check (docs/neuron.md) shows whether a release heeds them. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.backends import neuron_environment, neuron_inherited
from bench.backends.base import Refusal, World
from bench.scenarios.schema import Knobs

OPT_LEVEL = "NEURON_COMPILER_OPT_LEVEL"
NO_COMPILED_FALLBACK = "TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION"
"""Set to 1: what torch.compile's graph cannot become is an error, and does not run eagerly."""
ONLY_UNIMPLEMENTED = "TORCH_NEURONX_FALLBACK_ONLY_FOR_UNIMPLEMENTED_OPS"
"""Set to 1: an operator that fails on the device is an error, and does not run on the host. One
that is not there does, and is counted."""
BLOCKING = "NEURON_LAUNCH_BLOCKING"
"""Set to 1, for debugging: every operator is waited for."""
PROGRAMS = "TORCH_NEURONX_NEFF_CACHE_DIR"
"""The folder in which compiled programs are kept, operators' and graphs' alike."""


def of_case(knobs: Knobs, inherited: str = "") -> dict[str, str]:
    """Return the variables of all ranks of a case.

    Args:
        knobs: Of the case.
        inherited: The compiler's options as the user has them.
    """
    chosen = neuron_environment.of_both_flavours(knobs, inherited) | {
        NO_COMPILED_FALLBACK: "1",
        ONLY_UNIMPLEMENTED: "1",
        BLOCKING: "0",
    }
    if knobs.neuron.optlevel is not None:
        chosen[OPT_LEVEL] = f"-O{knobs.neuron.optlevel}"
    return chosen


def of_rank(world: World, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variable by which a rank gets its core, under torchrun too.

    A process of several cores may not join a process group. Where the ranks meet, the group decides
    by itself.

    Raises:
        ValueError: fewer cores are visible than there are ranks.
    """
    return {neuron_environment.VISIBLE: str(neuron_environment.core_of(world, variables))}


def of_cache(folder: str) -> dict[str, str]:
    """Return the variables that keep what is compiled in a folder."""
    return {
        PROGRAMS: str(Path(folder) / "neff"),
        "TORCH_NEURONX_NEFF_LOCAL_CACHE_DIR": str(Path(folder) / "neff-local"),
        "TORCH_NEURONX_HLO_CACHE_DIR": str(Path(folder) / "hlo"),
    }


def inherited_refusals(knobs: Knobs, variables: Mapping[str, str]) -> Iterator[Refusal]:
    """Refuse what the user's environment says and a knob, or the run itself, has to say."""
    yield from neuron_inherited.under_both(knobs, variables)
    if level := variables.get(OPT_LEVEL):
        reason = f"{neuron_environment.SAID_UNSEEN}, and set neuron.optlevel"
        yield Refusal(knob=OPT_LEVEL, value=level, reason=reason)


def compiled_programs(variables: Mapping[str, str]) -> int | None:
    """Return how many programs the compile cache holds; null: none is named."""
    folder = variables.get(PROGRAMS)
    return None if folder is None else sum(1 for _ in Path(folder).rglob("*.neff"))
