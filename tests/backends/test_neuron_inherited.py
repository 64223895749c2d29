"""What the user's environment says and a knob has to say: refused where it would be overwritten."""

from __future__ import annotations

from typing import Any

import pytest

from bench.backends import neuron_inherited
from bench.scenarios.schema import Knobs

ROUNDING, SEED = "NEURON_RT_STOCHASTIC_ROUNDING_EN", "NEURON_RT_STOCHASTIC_ROUNDING_SEED"
OFF, LNC = "XLA_DISABLE_FUNCTIONALIZATION", "NEURON_LOGICAL_NC_CONFIG"
BF16 = {"precision": "bf16-env"}


def refused(values: dict[str, Any], **variables: str) -> dict[str, str]:
    found = neuron_inherited.under_xla(Knobs.model_validate(values), variables)
    return {refusal.knob: refusal.reason for refusal in found}


@pytest.mark.parametrize("value", ["1", "true", "2"])
@pytest.mark.parametrize("name", ["NEURON_EXTRACT_GRAPHS_ONLY", "NEURON_FALL_BACK_TO_NULL_NEFF"])
def test_empty_graphs_are_never_measured(name: str, value: str) -> None:
    assert "unset it" in refused({}, **{name: value})[name]
    (refusal,) = neuron_inherited.under_both(Knobs(), {name: value})
    assert refusal.knob == name


@pytest.mark.parametrize("value", ["", "0", "false"])
def test_a_variable_that_is_off_makes_no_empty_graphs(value: str) -> None:
    assert refused({}, NEURON_EXTRACT_GRAPHS_ONLY=value) == {}


@pytest.mark.parametrize(
    ("values", "name", "value", "knob"),
    [
        ({}, ROUNDING, "1", "neuron.stochastic_rounding"),
        ({"precision": "bf16"}, ROUNDING, "0", "neuron.stochastic_rounding"),
        ({"precision": "bf16"}, SEED, "5", "seed"),
        ({}, OFF, "0", "neuron.functionalization"),
        ({"neuron": {"functionalization": True}}, OFF, "1", "neuron.functionalization"),
        ({}, "XLA_USE_BF16", "1", "precision=bf16-env"),
        ({}, "XLA_DOWNCAST_BF16", "1", "precision=bf16-env"),
        (BF16, "XLA_DOWNCAST_BF16", "1", "precision=bf16-env"),
        (BF16, "XLA_USE_BF16", "0", "precision=bf16-env"),
        ({}, LNC, "1", "neuron.lnc"),
        ({"neuron": {"lnc": 2}}, LNC, "1", "neuron.lnc"),
    ],
)
def test_what_a_knob_stands_for_and_says_otherwise_is_refused(
    values: dict[str, Any], name: str, value: str, knob: str
) -> None:
    found = refused(values, **{name: value})
    assert list(found) == [name]
    assert "unset it there" in found[name]
    assert f"set {knob}" in found[name]


@pytest.mark.parametrize(
    ("values", "name", "value"),
    [
        ({}, ROUNDING, "0"),
        ({}, ROUNDING, "false"),
        ({"precision": "bf16"}, ROUNDING, "true"),
        ({"precision": "bf16", "seed": 5}, SEED, "5"),
        # Nothing is rounded by chance: it means nothing.
        ({}, SEED, "5"),
        ({}, OFF, "1"),
        ({"neuron": {"functionalization": True}}, OFF, "0"),
        ({}, "XLA_USE_BF16", "0"),
        (BF16, "XLA_USE_BF16", "1"),
        ({"neuron": {"lnc": 1}}, LNC, "1"),
        ({}, LNC, ""),
        ({}, "NEURON_FUSE_SOFTMAX", "1"),
    ],
)
def test_what_says_the_same_or_what_no_knob_stands_for_is_not(
    values: dict[str, Any], name: str, value: str
) -> None:
    assert refused(values, **{name: value}) == {}


@pytest.mark.parametrize(
    ("shown", "ranks", "free"),
    [("0-1", "2", True), ("4", "1", True), ("0-3", "2", False), ("0", "2", False), ("", "2", True)],
)
def test_under_torchrun_there_are_as_many_cores_as_ranks(
    shown: str, ranks: str, *, free: bool
) -> None:
    here = {"NEURON_RT_VISIBLE_CORES": shown, "LOCAL_WORLD_SIZE": ranks}
    found = refused({}, TORCHELASTIC_RUN_ID="x", **here)
    assert list(found) == ([] if free else ["NEURON_RT_VISIBLE_CORES"])
    assert free or f"ranks on the machine, {ranks}:" in found["NEURON_RT_VISIBLE_CORES"]
    # Our own launcher gives every rank a core, and TorchNeuron's ranks get theirs from us.
    assert refused({}, **here) == {}
    assert list(neuron_inherited.under_both(Knobs(), {"TORCHELASTIC_RUN_ID": "x", **here})) == []


def test_the_variables_of_torch_xla_concern_its_flavour_alone() -> None:
    assert list(neuron_inherited.under_both(Knobs(), {"XLA_USE_BF16": "1", OFF: "0"})) == []
    (refusal,) = neuron_inherited.under_both(Knobs(), {ROUNDING: "1"})
    assert refusal.knob == ROUNDING
