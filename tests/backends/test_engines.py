"""Engines of a library: refused by every adapter that does not name them, and where they cannot."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from bench.backends import families, registry
from bench.backends.base import Probe
from bench.scenarios.schema import Knobs
from tests.backends.test_families import Old

HERE = Probe(backend="old", available=True)


class Knowing(Old):
    engines: ClassVar[tuple[str, ...]] = ("accelerate", "deepspeed", "fsdp")


def refused(backend: Old, probe: Probe = HERE, **values: Any) -> dict[str, str]:
    found = families.refusals(backend, Knobs.model_validate(values), probe)
    return {refusal.knob: refusal.reason for refusal in found}


def test_an_adapter_that_was_written_before_them_refuses_them() -> None:
    assert refused(Old(), engine="fsdp") == {
        "engine": "it does not drive the devices of old, whose adapter knows ddp and plain"
    }


@pytest.mark.parametrize("engine", ["plain", "ddp"])
def test_what_every_adapter_decides_by_itself_is_left_to_it(engine: str) -> None:
    assert refused(Old(), engine=engine) == {}


def test_an_adapter_that_names_one_has_it() -> None:
    assert refused(Knowing(), engine="fsdp") == {}


def test_what_an_engine_does_nowhere_is_refused_everywhere() -> None:
    assert list(refused(Knowing(), engine="fsdp", channels_last=True)) == ["channels_last"]
    assert refused(Knowing(), engine="ddp", channels_last=True) == {}
    half: dict[str, Any] = {"engine": "fsdp", "precision": "amp-fp16"}
    assert list(refused(Knowing(), **half, fsdp={"offload": "cpu"})) == ["precision"]
    assert refused(Knowing(), **half) == {}


@pytest.mark.parametrize(
    ("settings", "knob"),
    [
        ({"precision": "bf16"}, "precision"),
        ({"precision": "amp-fp16"}, "precision"),
        ({"compile": "inductor"}, "compile"),
        ({"channels_last": True}, "channels_last"),
        (
            {"optimizer_impl": "capturable", "zero": {"offload_optimizer": "cpu"}},
            "optimizer_impl",
        ),
    ],
)
def test_what_deepspeed_would_do_otherwise_is_refused(settings: dict[str, Any], knob: str) -> None:
    assert list(refused(Knowing(), engine="deepspeed", **settings)) == [knob]


@pytest.mark.parametrize("settings", [{"precision": "amp-bf16"}, {"gradient_accumulation": 2}])
def test_what_deepspeed_does_as_the_others_is_left_to_it(settings: dict[str, Any]) -> None:
    assert refused(Knowing(), engine="deepspeed", **settings) == {}


def test_accelerate_keeps_the_skipped_updates_of_fp16_to_itself() -> None:
    assert list(refused(Knowing(), engine="accelerate", precision="amp-fp16")) == ["precision"]
    assert refused(Knowing(), engine="accelerate", precision="amp-bf16") == {}


def test_a_package_that_is_not_there_is_named_with_what_installs_it() -> None:
    absent = Probe(backend="old", available=True, facts={"deepspeed": False})
    assert refused(Knowing(), absent, engine="deepspeed") == {
        "engine": 'deepspeed is not installed: pip install "accelbench[deepspeed]"'
    }
    assert refused(Knowing(), absent, engine="fsdp") == {}


@pytest.mark.parametrize(("name", "drives"), [("cpu", True), ("cuda", True), ("xla", False)])
def test_our_own_adapters(name: str, drives: bool) -> None:
    backend = registry.get(name)
    for probe in backend.devices().values():
        found = families.refusals(backend, Knobs(engine="fsdp"), probe)
        assert ("engine" in {refusal.knob for refusal in found}) is not drives
