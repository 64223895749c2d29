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


@pytest.mark.parametrize(
    ("engine", "name", "value", "remedy"),
    [
        ("accelerate", "ACCELERATE_MIXED_PRECISION", "bf16", "a file as accelerate.config"),
        ("accelerate", "ACCELERATE_DEBUG_MODE", "1", "a file as accelerate.config"),
        ("accelerate", "FSDP_OFFLOAD_PARAMS", "true", "a file as accelerate.config"),
        ("deepspeed", "DS_ACCELERATOR", "cuda", "choose --backend"),
    ],
)
def test_a_variable_that_a_library_would_read_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, engine: str, name: str, value: str, remedy: str
) -> None:
    monkeypatch.setenv(name, value)
    found = refused(Knowing(), engine=engine)
    assert list(found) == [name]
    assert found[name].startswith("the environment says it, where the row would not show it: unset")
    assert found[name].endswith(remedy)
    assert refused(Knowing(), engine="fsdp") == {}
    told = families.refusals(Knowing(), Knobs.model_validate({"engine": engine}), HERE)
    assert [refusal.value for refusal in told] == [value]


def test_a_variable_that_names_the_backend_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", Knowing.name)
    assert refused(Knowing(), engine="deepspeed") == {}


@pytest.mark.parametrize(
    "name", ["ACCELERATE_DISABLE_RICH", "ACCELERATE_ENABLE_RICH", "ACCELERATE_LOG_LEVEL"]
)
def test_a_variable_that_changes_what_accelerate_says_is_none(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert refused(Knowing(), engine="accelerate") == {}


def test_accelerate_keeps_the_skipped_updates_of_fp16_to_itself() -> None:
    assert list(refused(Knowing(), engine="accelerate", precision="amp-fp16")) == ["precision"]
    assert refused(Knowing(), engine="accelerate", precision="amp-bf16") == {}


def test_files_that_deepspeed_cannot_write_here_are_refused_with_the_remedy() -> None:
    facts = {"deepspeed": True, "async_io": "libaio is not found: install it"}
    lacking = Probe(backend="old", available=True, facts=facts)
    settings: dict[str, Any] = {"engine": "deepspeed", "zero": {"stage": 3}}
    for knob in ("offload_optimizer", "offload_param"):
        settings["zero"] = {"stage": 3, knob: "nvme"}
        found = refused(Knowing(), lacking, **settings)
        assert list(found) == [f"zero.{knob}"]
        assert found[f"zero.{knob}"].endswith(
            "cannot be used here: libaio is not found: install it"
        )
        assert refused(Knowing(), **settings) == {}
    settings["zero"] = {"stage": 3, "offload_optimizer": "cpu"}
    assert refused(Knowing(), lacking, **settings) == {}


def test_a_package_that_is_not_there_is_named_with_what_installs_it() -> None:
    absent = Probe(backend="old", available=True, facts={"deepspeed": False})
    assert refused(Knowing(), absent, engine="deepspeed") == {
        "engine": 'deepspeed is not installed: pip install "accelbench[deepspeed]"'
    }
    assert refused(Knowing(), absent, engine="fsdp") == {}


@pytest.mark.parametrize(("name", "drives"), [("cpu", True), ("cuda", True), ("xla", False)])
def test_our_own_adapters(name: str, drives: bool) -> None:
    backend = registry.get(name)
    probes = backend.devices().values()
    assert probes
    for probe in probes:
        found = families.refusals(backend, Knobs(engine="fsdp"), probe)
        assert ("engine" in {refusal.knob for refusal in found}) is not drives


def test_spmd_is_refused_by_name_wherever_xla_does_not_build_the_graphs() -> None:
    for name in set(registry.names()) - {"xla"}:
        backend = registry.get(name)
        for title, probe in backend.devices().items():
            told = families.refusals(backend, Knobs(engine="spmd"), probe)
            assert "engine" in {refusal.knob for refusal in told}, title
