"""Knobs of one device family, put to an adapter that is for another: refused, whoever wrote it.

An adapter names the families whose knobs it knows (`Backend.families`). The others are refused here
and not by the adapters: one that was written before a family came cannot know of it. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.backends import engines
from bench.backends.base import Backend, Probe, Refusal
from bench.scenarios.schema import Knobs, Strict

COMPILERS: Mapping[str, str] = {"neuron": "it is the compiler of AWS's TorchNeuron"}
"""Values of `compile` that are for the family of that name alone, and what they are."""
FAMILIES: Mapping[str, str] = {"neuron": "it is a setting of AWS's Neuron compiler and runtime"}
"""Groups of the schema whose knobs one device family has, all null by default, and what they are.
"""


def refusals(backend: Backend, knobs: Knobs, probe: Probe) -> list[Refusal]:
    """Return every knob that an adapter cannot honour, those it has never heard of included."""
    return [
        *backend.refusals(knobs, probe),
        *_foreign(backend, knobs),
        *engines.refusals(backend, knobs, probe),
    ]


def _foreign(backend: Backend, knobs: Knobs) -> Iterator[Refusal]:
    if knobs.compile in COMPILERS and knobs.compile not in backend.families:
        reason = COMPILERS[knobs.compile]
        yield Refusal(knob="compile", value=knobs.compile, reason=reason)
    for family, reason in FAMILIES.items():
        group = getattr(knobs, family)
        if family in backend.families or not isinstance(group, Strict):
            continue
        for name in type(group).model_fields:
            value = getattr(group, name)
            if value is not None:
                yield Refusal(knob=f"{family}.{name}", value=value, reason=reason)
