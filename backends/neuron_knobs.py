"""The knobs of AWS's Neuron, on devices that are none. Torch-free."""

from __future__ import annotations

from bench.backends.base import Refusal
from bench.scenarios.schema import Knobs, NeuronKnobs


def refused_elsewhere(knobs: Knobs) -> list[Refusal]:
    """Return a refusal for every setting of the Neuron compiler or runtime that a case makes."""
    return [
        Refusal(
            knob=f"neuron.{name}",
            value=value,
            reason="it is a setting of AWS's Neuron compiler and runtime",
        )
        for name in NeuronKnobs.model_fields
        if (value := getattr(knobs.neuron, name)) is not None
    ]
