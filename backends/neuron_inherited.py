"""What the user's environment says to the Neuron stack, and a knob, or the run itself, has to say.

A variable that a knob stands for would be overwritten without a word where it says something else,
and a row is named after its knobs: such a case is refused. What no knob stands for is left as it
is, and recorded (`bench.run.environment`). Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.backends import neuron_environment
from bench.backends.base import Refusal
from bench.backends.neuron_environment import LNC, SAID_UNSEEN, VISIBLE
from bench.scenarios.schema import Knobs

_ROUNDING = "NEURON_RT_STOCHASTIC_ROUNDING_EN"
_SEED = "NEURON_RT_STOCHASTIC_ROUNDING_SEED"
_INSTEAD = {
    _ROUNDING: "set neuron.stochastic_rounding",
    _SEED: "set seed",
    LNC: "set neuron.lnc, which the compiler is told as well: AWS supports no other "
    "number there than here",
    "XLA_DISABLE_FUNCTIONALIZATION": "set neuron.functionalization",
    "XLA_USE_BF16": "set precision=bf16-env",
    "XLA_DOWNCAST_BF16": "set precision=bf16-env, which is XLA_USE_BF16: none is this one",
}
_STUBS = {
    "NEURON_EXTRACT_GRAPHS_ONLY": "every graph would be put by, and an empty one be executed that "
    "returns zeros",
    "NEURON_FALL_BACK_TO_NULL_NEFF": "an empty graph would be executed in place of one that is not "
    "compiled",
}
"""What `neuron_parallel_compile` sets, and may leave behind."""
_BF16 = ("XLA_USE_BF16", "XLA_DOWNCAST_BF16")
_CAST_BY_TORCH = ("amp-bf16", "bf16")


def under_both(knobs: Knobs, variables: Mapping[str, str]) -> Iterator[Refusal]:
    """Refuse what concerns the compiler and the runtime, whoever hands them the graphs."""
    yield from neuron_environment.inherited_options(variables)
    yield from _stubs(variables)
    yield from _differing(neuron_environment.of_both_flavours(knobs), variables)


def under_xla(knobs: Knobs, variables: Mapping[str, str]) -> Iterator[Refusal]:
    """Refuse what concerns torch_xla too."""
    yield from neuron_environment.inherited_options(variables)
    yield from _stubs(variables)
    warned = [
        name for name in _BF16 if knobs.precision in _CAST_BY_TORCH and _is_on(variables, name)
    ]
    for name in warned:
        yield Refusal(
            knob="precision",
            value=knobs.precision,
            reason=f"{name}={variables[name]} in the environment turns float32 into bfloat16 "
            f"behind it: AWS warns against {name} together with autocast or a cast, whose float32 "
            "parts it overrides; unset it",
        )
    rest = {name: value for name, value in variables.items() if name not in warned}
    yield from _differing(neuron_environment.of_case(knobs), rest)
    yield from _under_torchrun(variables)


def _under_torchrun(variables: Mapping[str, str]) -> Iterator[Refusal]:
    """Refuse what ends torch_xla's import there: another number of cores than of ranks."""
    cores = neuron_environment.visible_cores(variables.get(VISIBLE, ""))
    ranks = int(variables.get("LOCAL_WORLD_SIZE", "1"))
    if neuron_environment.TORCHRUN in variables and cores is not None and len(cores) != ranks:
        yield Refusal(
            knob=VISIBLE,
            value=variables[VISIBLE],
            reason="under torchrun torch_xla gives out the cores itself, and has to be shown as "
            f"many as there are ranks on the machine, {ranks}: show it so many, or all",
        )


def _stubs(variables: Mapping[str, str]) -> Iterator[Refusal]:
    for name, reason in _STUBS.items():
        if _is_on(variables, name):
            yield Refusal(knob=name, value=variables[name], reason=f"{reason}: unset it")


def _differing(chosen: Mapping[str, str], variables: Mapping[str, str]) -> Iterator[Refusal]:
    """Refuse variables that say something else than what is chosen for the case.

    A seed means nothing where nothing is rounded by chance. How many cores make a logical one the
    compiler is told by the knob alone: a variable without it is refused too.
    """
    for name, instead in _INSTEAD.items():
        written, wanted = variables.get(name, ""), chosen.get(name)
        meant = wanted is not None or name == LNC
        if written and meant and _plain(written) != _plain(wanted or ""):
            yield Refusal(knob=name, value=written, reason=f"{SAID_UNSEEN}, and {instead}")


def _is_on(variables: Mapping[str, str], name: str) -> bool:
    return _plain(variables.get(name, "")) not in ("", "0")


def _plain(value: str) -> str:
    """Return a variable's value as the runtime takes it: it knows two words for yes and no."""
    return {"true": "1", "false": "0"}.get(value.strip().lower(), value.strip())
