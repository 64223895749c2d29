"""What both flavours of Neuron refuse: settings of the compiler, and processes. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from bench.backends import neuron_cores
from bench.backends.base import Probe, Refusal
from bench.backends.neuron_environment import VISIBLE
from bench.scenarios.schema import Knobs

_WITH_LNC = ("trn2", "trn3")
"""Beginnings of the families whose logical cores may be made of two physical ones."""
_GROUPS = {"trn1": (1, 2, 8, 32), "inf2": (1, 2, 4, 8, 24)}
"""Numbers of cores that AWS's pages name for a group, by the beginning of the family."""
_CAST_FIRST = (
    "AWS has the compiler's own cast switched off under autocast: it would also cast what autocast "
    "keeps in float32"
)
_NOTHING_TO_CAST = "the compiler casts float32 only, and this precision leaves none"


def on_precision(knobs: Knobs) -> Iterator[Refusal]:
    """Refuse TF32 under torch's name for it, and a cast of what is no float32."""
    asked, cast = knobs.precision, knobs.neuron.auto_cast
    if asked == "tf32":
        yield Refusal(
            knob="precision",
            value=asked,
            reason="here it is a cast by the compiler: set neuron.auto_cast=matmult and "
            "neuron.auto_cast_type=tf32",
        )
    if cast in ("matmult", "all") and asked != "fp32":
        reason = _CAST_FIRST if asked == "amp-bf16" else _NOTHING_TO_CAST
        yield Refusal(knob="neuron.auto_cast", value=cast, reason=reason)


def on_family(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    """Refuse settings of the compiler that are for another task, or for another machine."""
    neuron, family = knobs.neuron, probe.facts.get("family")
    if neuron.model_type == "unet-inference" and knobs.task == "train":
        yield Refusal(
            knob="neuron.model_type",
            value=neuron.model_type,
            reason="it is for inference, and this case trains",
        )
    if not isinstance(family, str):
        return
    if neuron.target is not None and not family.startswith(neuron.target):
        yield Refusal(
            knob="neuron.target",
            value=neuron.target,
            reason=f"this machine is {family}, and what is compiled for another family is not for "
            "it",
        )
    if neuron.lnc is not None and not family.startswith(_WITH_LNC):
        yield Refusal(
            knob="neuron.lnc",
            value=neuron.lnc,
            reason=f"the cores of {family} are physical ones: logical cores came with Trainium2",
        )


def on_threads(knobs: Knobs) -> Iterator[Refusal]:
    """Refuse a number of host threads."""
    if knobs.threads is not None:
        yield Refusal(
            knob="threads",
            value=knobs.threads,
            reason="the work runs on the NeuronCores, not on host threads",
        )


def on_cores(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    """Refuse more processes than there are cores."""
    cores = neuron_cores.for_case(knobs, probe)
    if cores is not None and 1 < knobs.local_processes > cores:
        yield Refusal(
            knob="processes",
            value=knobs.processes,
            reason=f"{cores} NeuronCores are visible, and a core serves one process",
        )


def on_group(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    """Refuse a group of cores of another size, or at another place, than AWS documents.

    The guide to the environment of torch-neuronx 2.9 has a group of N cores begin at a multiple of
    N, on consecutive cores, N being 1, 2, 8 or 32. On Inferentia2 its release notes know 4 and 24.
    All cores of a machine are a group too: where their number is unknown, so is whether these are.
    """
    size, cores = knobs.local_processes, neuron_cores.for_case(knobs, probe)
    all_of_them = neuron_cores.of_machine(knobs, probe)
    if size == 1 or (cores is not None and size > cores):
        return
    family, shown = probe.facts.get("family"), probe.facts.get(neuron_cores.SHOWN)
    sizes = next((_GROUPS[start] for start in _GROUPS if str(family).startswith(start)), None)
    if sizes and all_of_them is not None and size not in (*sizes, all_of_them):
        yield Refusal(
            knob="processes",
            value=size,
            reason=f"on {family} AWS documents groups of {', '.join(map(str, sizes))} cores, and "
            "of no other number",
        )
    if not isinstance(shown, list):
        return
    own = [core for core in shown[:size] if isinstance(core, int)]
    if own != list(range(own[0], own[0] + size)) or own[0] % size:
        yield Refusal(
            knob=VISIBLE,
            value=",".join(map(str, own)),
            reason=f"AWS has a group of {size} cores lie on consecutive ones, from a multiple of "
            f"{size} on: show it such cores, or all",
        )
