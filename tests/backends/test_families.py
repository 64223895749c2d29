"""Knobs of one device family: refused by every adapter that does not name the family."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from bench.backends import families, registry
from bench.backends.base import Backend, Device, Probe, Refusal, World
from bench.scenarios.schema import Knobs, Strict

HERE = Probe(backend="old", available=True)
SET: dict[str, Any] = {"neuron": {"optlevel": 3, "functionalization": False}}
SHARED = {"data", "loader", "fsdp", "accelerate", "zero", "spmd"}
"""Groups of the schema that concern every device, or an engine that an adapter names."""


class Old(Backend):
    """Somebody's adapter that was written before any family had knobs of its own."""

    name: ClassVar[str] = "old"

    def probe(self) -> Probe:
        return HERE

    def open(self, knobs: Knobs, world: World) -> Device:
        raise NotImplementedError

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        return [Refusal(knob="threads", value=2, reason="it has one")] if knobs.threads else []


class Knowing(Old):
    families: ClassVar[tuple[str, ...]] = ("neuron",)


def refused(backend: Backend, values: dict[str, Any]) -> dict[str, str]:
    found = families.refusals(backend, Knobs.model_validate(values), HERE)
    return {refusal.knob: refusal.reason for refusal in found}


def test_an_adapter_that_has_never_heard_of_them_refuses_each_that_is_set() -> None:
    found = refused(Old(), SET)
    assert list(found) == ["neuron.optlevel", "neuron.functionalization"]
    assert all("AWS's Neuron" in reason for reason in found.values())


def test_an_adapter_that_names_the_family_is_asked_itself() -> None:
    assert refused(Knowing(), SET) == {}


def test_what_nobody_set_is_refused_by_nobody() -> None:
    assert refused(Old(), {}) == {}


def test_the_adapters_own_refusals_come_first() -> None:
    assert list(refused(Old(), {"threads": 2, "neuron": {"optlevel": 1}})) == [
        "threads",
        "neuron.optlevel",
    ]


@pytest.mark.parametrize("name", ["cpu", "cuda", "xla"])
def test_our_own_adapters_of_other_devices_refuse_them(name: str) -> None:
    backend = registry.get(name)
    for title, probe in backend.devices().items():
        found = families.refusals(backend, Knobs.model_validate(SET), probe)
        refusals = {refusal.knob for refusal in found}
        assert {"neuron.optlevel", "neuron.functionalization"} <= refusals, title


def test_neurons_own_adapter_honours_them() -> None:
    backend = registry.get("neuron")
    asked = Knobs.model_validate({"neuron": {"optlevel": 3}})
    answers = [families.refusals(backend, asked, probe) for probe in backend.devices().values()]
    assert [] in answers


def test_every_group_of_the_schema_is_everybodys_or_a_familys() -> None:
    groups = {name for name in Knobs.model_fields if isinstance(getattr(Knobs(), name), Strict)}
    assert groups == SHARED | set(families.FAMILIES)


def test_nothing_of_a_family_is_set_by_default() -> None:
    for family in families.FAMILIES:
        assert set(getattr(Knobs(), family).model_dump().values()) == {None}
