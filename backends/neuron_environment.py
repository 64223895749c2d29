"""What the Neuron compiler and runtime are told through the environment, before anything starts.

Importing torch_xla, libneuronxla or torch_neuronx reads the environment and writes to it, and the
runtime reads the rest when the first device is opened: everything here is decided before. The XLA
flavour is told all of it; what the native one shares has functions of its own. Torch-free.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from bench.backends.base import Refusal, World
from bench.scenarios.schema import Knobs, NeuronKnobs

FLAGS = "NEURON_CC_FLAGS"
VISIBLE = "NEURON_RT_VISIBLE_CORES"
CACHE = "NEURON_COMPILE_CACHE_URL"
LNC = "NEURON_LOGICAL_NC_CONFIG"
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""By this a library knows that torchrun has started it."""
TOLD = (
    "NEURON_RT_STOCHASTIC_ROUNDING_EN",
    "NEURON_RT_STOCHASTIC_ROUNDING_SEED",
    VISIBLE,
    LNC,
)
"""What a device of either flavour describes of its environment."""
SAID_UNSEEN = "the environment says it, where the row would not show it: unset it there"
_CACHE_IS_OURS = "the compile cache is private to a run, so that cold and warm are what they say"
KNOB_OF = {
    "--auto-cast": "neuron.auto_cast",
    "--auto-cast-type": "neuron.auto_cast_type",
    "--model-type": "neuron.model_type",
    "--optlevel": "neuron.optlevel",
    "--target": "neuron.target",
    "--logical-nc-config": "neuron.lnc",
    "--enable-mixed-precision-accumulation": "neuron.mixed_precision_accumulation",
    "--disable-mixed-precision-accumulation": "neuron.mixed_precision_accumulation",
}
"""The compiler's options that a knob stands for, as `options` spells them."""
_CACHE_OPTIONS = ("--cache_dir", "--no_cache")
_ALIASES = {"-O": "--optlevel", "-lnc": "--logical-nc-config", "--lnc": "--logical-nc-config"}
_SWITCHES = ("--enable-mixed-precision-accumulation", "--disable-mixed-precision-accumulation")
_ROOT_PORT = 62182
"""The port that torch_xla chooses for the first exchange between the ranks."""
_BF16_PRECISIONS = ("bf16", "bf16-env")


def compiler_flags(knobs: NeuronKnobs, inherited: str = "") -> str:
    """Return NEURON_CC_FLAGS: what the user's environment adds, then an option for every knob.

    `--auto-cast` is always there: the compiler's own default was `matmult` up to Neuron 2.26.

    Args:
        knobs: Of the case.
        inherited: The variable as the user has it.
    """
    cast = knobs.auto_cast or "none"
    chosen = [f"--auto-cast={cast}"]
    if cast != "none":
        chosen.append(f"--auto-cast-type={knobs.auto_cast_type}")
    for option, value in (
        ("--model-type", knobs.model_type),
        ("--optlevel", knobs.optlevel),
        ("--target", knobs.target),
        ("--logical-nc-config", knobs.lnc),
    ):
        if value is not None:
            chosen.append(f"{option}={value}")
    if knobs.mixed_precision_accumulation is not None:
        chosen.append(_SWITCHES[0 if knobs.mixed_precision_accumulation else 1])
    return " ".join([*([inherited.strip()] if inherited.strip() else []), *chosen])


def of_case(knobs: Knobs, inherited: str = "") -> dict[str, str]:
    """Return the variables of all ranks of a case under torch_xla."""
    return {
        "XLA_USE_BF16": "1" if knobs.precision == "bf16-env" else "0",
        "XLA_DOWNCAST_BF16": "0",
        "XLA_DISABLE_FUNCTIONALIZATION": "0" if knobs.neuron.functionalization else "1",
    } | of_both_flavours(knobs, inherited)


def of_both_flavours(knobs: Knobs, inherited: str = "") -> dict[str, str]:
    """Return what the compiler and the runtime are told, whoever hands them the graphs.

    Args:
        knobs: Of the case.
        inherited: The compiler's options as the user has them.
    """
    neuron = knobs.neuron
    rounding = neuron.stochastic_rounding
    if rounding is None:
        rounding = knobs.precision in _BF16_PRECISIONS
    chosen = {
        FLAGS: compiler_flags(neuron, inherited),
        "NEURON_RT_STOCHASTIC_ROUNDING_EN": "1" if rounding else "0",
    }
    if rounding:
        chosen["NEURON_RT_STOCHASTIC_ROUNDING_SEED"] = str(knobs.seed)
    if neuron.lnc is not None:
        chosen[LNC] = str(neuron.lnc)
    return chosen


def of_rank(world: World, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which a rank gets its core and knows the others.

    They are those that torch_xla sets by itself under torchrun, where there is nothing to add.

    Args:
        world: The rank's place.
        variables: The rank's environment so far.

    Raises:
        ValueError: fewer cores are visible than there are ranks.
    """
    if TORCHRUN in variables:
        return {}
    chosen = {
        VISIBLE: str(core_of(world, variables)),
        "NEURON_PJRT_PROCESSES_NUM_DEVICES": ",".join(["1"] * world.size),
        "NEURON_PJRT_PROCESS_INDEX": str(world.rank),
    }
    if world.size > 1:
        chosen |= {
            "NEURON_RT_ROOT_COMM_ID": variables.get(
                "NEURON_RT_ROOT_COMM_ID", f"{_first_machine(world, variables)}:{_ROOT_PORT}"
            ),
            "PJRT_LOCAL_PROCESS_COUNT": str(world.local_size),
            "PJRT_LOCAL_PROCESS_RANK": str(world.local_rank),
        }
    return chosen


def _first_machine(world: World, variables: Mapping[str, str]) -> str:
    return "localhost" if world.nodes == 1 else variables["MASTER_ADDR"]


def core_of(world: World, variables: Mapping[str, str]) -> int:
    """Return the core of a rank: that of its local number, among those that the user shows.

    Raises:
        ValueError: fewer cores are visible than there are ranks.
    """
    shown = visible_cores(variables.get(VISIBLE, ""))
    cores = list(range(world.size)) if shown is None else shown
    if world.local_rank >= len(cores):
        raise ValueError(
            f"local rank {world.local_rank} has no core of its own: {VISIBLE}={variables[VISIBLE]}"
        )
    return cores[world.local_rank]


def visible_cores(written: str) -> list[int] | None:
    """Return the cores of a list such as `0,4-6`; null: nothing is written.

    Raises:
        ValueError: it is no such list.
    """
    if not written.strip():
        return None
    found: list[int] = []
    for part in written.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{VISIBLE}={written} is no list of cores, as in 0,4-6")
        if int(last or first) < int(first):
            raise ValueError(f"{VISIBLE}={written}: {part.strip()} ends before it begins")
        found += range(int(first), int(last or first) + 1)
    if len(set(found)) != len(found):
        raise ValueError(f"{VISIBLE}={written} names a core twice")
    return found


def inherited_options(variables: Mapping[str, str]) -> Iterator[Refusal]:
    """Refuse the compiler's options of the user's environment that a knob or the run has to say."""
    for option, _ in options(variables.get(FLAGS, "")):
        if option in _CACHE_OPTIONS:
            yield Refusal(
                knob=FLAGS, value=option, reason=f"{_CACHE_IS_OURS}: unset it in the environment"
            )
        elif option in KNOB_OF:
            yield Refusal(
                knob=FLAGS,
                value=option,
                reason=f"{SAID_UNSEEN}, and set {KNOB_OF[option]}",
            )


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that an import took back, with what they are now.

    Args:
        before: The variables as they were chosen.
        after: The environment now. What it adds to the compiler's options does not count.
    """
    found = {
        name: after.get(name, "not set")
        for name, value in before.items()
        if name != FLAGS and after.get(name) != value
    }
    now = dict(options(after.get(FLAGS, "")))
    for option, value in dict(options(before.get(FLAGS, ""))).items():
        lost = option in _SWITCHES and now.get(_opposite(option)) is not None
        if now.get(option) != value or lost:
            found[f"{FLAGS} {option}"] = now.get(option) or after.get(FLAGS, "not set")
    return found


def options(flags: str) -> list[tuple[str, str]]:
    """Return the options of the compiler's command line, in order: `--a=b` and `--a b` alike.

    A later option wins over an earlier one of its name, as it does for the compiler.
    """
    try:
        words: Sequence[str] = shlex.split(flags)
    except ValueError:
        words = flags.split()  # a quote that is never closed: the compiler will say so
    found: list[tuple[str, str]] = []
    for word in words:
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            if not equals and word.startswith("-O") and word != "-O":
                name, value = "-O", word.removeprefix("-O")
            found.append((_ALIASES.get(name, name), value))
        elif found and found[-1][1] == "":
            found[-1] = (found[-1][0], word)
    return found


def recorded_options(flags: str) -> dict[str, JsonValue]:
    """Return all options of the compiler for a record, which holds no folder of this machine."""
    told = dict(options(flags))
    return {name: "<path>" if "/" in told[name] else told[name] for name in sorted(told)}


def _opposite(switch: str) -> str:
    return _SWITCHES[1 - _SWITCHES.index(switch)]
