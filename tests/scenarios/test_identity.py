"""The three identities: which change makes rows incomparable, and which a run must repeat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from bench.scenarios import identity
from bench.scenarios.schema import Case, Identity, Knobs, Measure

CHANGES: dict[str, list[dict[str, Any]]] = {
    # For each knob, two sets of knobs that differ in it alone.
    "task": [{"task": "infer"}],
    "model": [{}, {"model": "vit_base_patch16_224"}],
    "model_kwargs": [{}, {"model_kwargs": {"depth": 2}}],
    "image_size": [{}, {"image_size": 96}],
    "classes": [{}, {"classes": 10}],
    "optimizer": [{}, {"optimizer": "adam"}],
    "learning_rate": [{}, {"learning_rate": 0.1}],
    "weight_decay": [{}, {"weight_decay": 0.1}],
    "momentum": [{"optimizer": "sgd"}, {"optimizer": "sgd", "momentum": 0.5}],
    "data.source": [{"data": {"source": "jpeg"}}, {"data": {"source": "folder:x", "images": None}}],
    "data.pool": [{"data": {"source": "cached"}}, {"data": {"source": "cached", "pool": 3}}],
    "data.images": [{"data": {"source": "jpeg"}}, {"data": {"source": "jpeg", "images": 9}}],
    "data.workers": [{}, {"data": {"workers": 1}}],
    "data.prefetch": [{"data": {"workers": 1}}, {"data": {"workers": 1, "prefetch": 4}}],
    "data.pin_memory": [{}, {"data": {"pin_memory": True}}],
    "batch_size": [{}, {"batch_size": 9}],
    "precision": [{}, {"precision": "bf16"}],
    "compile": [{}, {"compile": "openxla"}],
    "compile_mode": [
        {"compile": "inductor"},
        {"compile": "inductor", "compile_mode": "max-autotune"},
    ],
    "optimizer_impl": [{}, {"optimizer_impl": "fused"}],
    "gradient_accumulation": [{}, {"gradient_accumulation": 2}],
    "activation_checkpointing": [{}, {"activation_checkpointing": True}],
    "channels_last": [{}, {"channels_last": True}],
    "loader.batches_per_execution": [{}, {"loader": {"batches_per_execution": 4}}],
    "loader.prefetch": [{}, {"loader": {"prefetch": 4}}],
    "loader.device_prefetch": [{}, {"loader": {"device_prefetch": 4}}],
    "loader.transfer_threads": [{}, {"loader": {"transfer_threads": 4}}],
    "neuron.auto_cast": [{}, {"neuron": {"auto_cast": "none"}}],
    "neuron.auto_cast_type": [
        {"neuron": {"auto_cast": "all"}},
        {"neuron": {"auto_cast": "all", "auto_cast_type": "fp8_e4m3"}},
    ],
    "neuron.model_type": [{}, {"neuron": {"model_type": "transformer"}}],
    "neuron.optlevel": [{}, {"neuron": {"optlevel": 3}}],
    "neuron.target": [{}, {"neuron": {"target": "inf2"}}],
    "neuron.lnc": [{}, {"neuron": {"lnc": 1}}],
    "neuron.mixed_precision_accumulation": [
        {},
        {"neuron": {"mixed_precision_accumulation": False}},
    ],
    "neuron.stochastic_rounding": [{}, {"neuron": {"stochastic_rounding": False}}],
    "neuron.functionalization": [{}, {"neuron": {"functionalization": True}}],
    "engine": [{}, {"engine": "ddp"}],
    "fsdp.reshard_after_forward": [
        {"engine": "fsdp"},
        {"engine": "fsdp", "fsdp": {"reshard_after_forward": False}},
    ],
    "fsdp.offload": [{"engine": "fsdp"}, {"engine": "fsdp", "fsdp": {"offload": "cpu"}}],
    "accelerate.config": [
        {"engine": "accelerate"},
        {"engine": "accelerate", "accelerate": {"config": "a.yaml"}},
    ],
    "zero.stage": [{"engine": "deepspeed"}, {"engine": "deepspeed", "zero": {"stage": 1}}],
    "zero.offload_optimizer": [
        {"engine": "deepspeed"},
        {"engine": "deepspeed", "zero": {"offload_optimizer": "cpu"}},
    ],
    "zero.offload_param": [
        {"engine": "deepspeed", "zero": {"stage": 3}},
        {"engine": "deepspeed", "zero": {"stage": 3, "offload_param": "cpu"}},
    ],
    "zero.nvme_path": [
        {"engine": "deepspeed", "zero": {"stage": 3, "offload_optimizer": "nvme"}},
        {
            "engine": "deepspeed",
            "zero": {"stage": 3, "offload_optimizer": "nvme", "nvme_path": "drive"},
        },
    ],
    "zero.config": [{"engine": "deepspeed"}, {"engine": "deepspeed", "zero": {"config": "a.json"}}],
    "spmd.devices": [{"engine": "spmd"}, {"engine": "spmd", "spmd": {"devices": 4}}],
    "processes": [{"engine": "ddp"}, {"engine": "ddp", "processes": 2}],
    "nodes": [{"processes": 2}, {"processes": 2, "nodes": 2}],
    "threads": [{}, {"threads": 2}],
    "seed": [{}, {"seed": 7}],
}
TAGS = {name: tag for name, tag, _ in identity.tagged_fields(Knobs())}


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", [x for x in field.metadata if isinstance(x, Identity)]


def pair(knob: str) -> tuple[Knobs, Knobs]:
    before, after = ([{}] if len(CHANGES[knob]) == 1 else []) + CHANGES[knob]
    return Knobs.model_validate(before), Knobs.model_validate(after)


def series(knobs: Knobs, **where: Any) -> str:
    given = {"backend": "cpu", "device_model": "a cpu", "world": 1} | where
    return identity.series_key(knobs, **given)


def fingerprint(knobs: Knobs, measure: Measure, **what: Any) -> str:
    given = {"versions": {"torch": "2.9"}, "measurement": 1} | what
    return identity.fingerprint(series(knobs), knobs, measure, **given)


@pytest.mark.parametrize("model", [Knobs, Measure])
def test_every_field_is_tagged_exactly_once(model: type[BaseModel]) -> None:
    assert {name: len(tags) for name, tags in leaves(model) if len(tags) != 1} == {}


def test_how_a_case_is_measured_is_protocol_and_nothing_else() -> None:
    assert {tag for _, tag, _ in identity.tagged_fields(Measure())} == {Identity.PROTOCOL}


def test_every_knob_is_tried_below() -> None:
    assert set(CHANGES) == {name for name, _ in leaves(Knobs)}


@pytest.mark.parametrize("knob", [k for k, tag in TAGS.items() if tag is Identity.WORK])
def test_a_knob_of_the_work_changes_the_work_key(knob: str) -> None:
    before, after = pair(knob)
    assert identity.work_key(before) != identity.work_key(after)
    assert knob in identity.work_difference(before, after)


@pytest.mark.parametrize("knob", [k for k, tag in TAGS.items() if tag is Identity.TREATMENT])
def test_a_treatment_keeps_the_work_key_and_changes_the_series(knob: str) -> None:
    before, after = pair(knob)
    assert identity.work_key(before) == identity.work_key(after)
    assert identity.work_difference(before, after) == []
    assert series(before) != series(after)


@pytest.mark.parametrize("knob", [k for k, tag in TAGS.items() if tag is Identity.PROTOCOL])
def test_a_knob_of_the_protocol_changes_the_fingerprint_alone(knob: str) -> None:
    before, after = pair(knob)
    assert identity.work_key(before) == identity.work_key(after)
    assert series(before) == series(after)
    assert fingerprint(before, Measure()) != fingerprint(after, Measure())


@pytest.mark.parametrize("where", [{"backend": "xla"}, {"device_model": "b"}, {"world": 2}])
def test_another_backend_device_or_world_is_another_series(where: dict[str, Any]) -> None:
    assert series(Knobs()) != series(Knobs(), **where)


@pytest.mark.parametrize(
    "what",
    [
        {"versions": {"torch": "2.10"}},
        {"versions": {}},
        {"measurement": 2},
        {"flags": {"NEURON_CC_FLAGS": "--auto-cast=none"}},
    ],
)
def test_other_software_flags_or_method_is_another_fingerprint(what: dict[str, Any]) -> None:
    assert fingerprint(Knobs(), Measure()) != fingerprint(Knobs(), Measure(), **what)


@pytest.mark.parametrize("field", list(Measure.model_fields))
def test_every_field_of_the_protocol_changes_the_fingerprint(field: str) -> None:
    other: Any = {"diagnostics": False, "health": False, "precision_target": 1.0}.get(
        field, getattr(Measure(), field)
    )
    other = other if field in ("diagnostics", "health", "precision_target") else other + 1
    # A limit on the launches acts where there is a precision to reach.
    around = {"precision_target": 2.0} if field == "max_launches" else {}
    before, changed = (Measure.model_validate(around | more) for more in ({}, {field: other}))
    assert fingerprint(Knobs(), before) != fingerprint(Knobs(), changed)


@pytest.mark.parametrize(
    ("task", "around", "idle"),
    [
        ("train", {}, {"max_launches": 50}),
        ("train", {"health": False}, {"health_steps": 20}),
        ("infer", {}, {"health_steps": 20}),
        ("infer", {}, {"health": False}),
    ],
)
def test_what_cannot_act_keeps_the_fingerprint(
    task: str, around: dict[str, Any], idle: dict[str, Any]
) -> None:
    knobs = Knobs.model_validate({"task": task})
    before, after = (Measure.model_validate(around | more) for more in ({}, idle))
    assert fingerprint(knobs, before) == fingerprint(knobs, after)


def test_a_knob_that_is_null_is_in_no_key() -> None:
    """Else every new knob would cut the history of all cases. These two change for no such reason.

    They do change with a default, which is another case.
    """
    assert None in identity.fields_of(Knobs(), Identity.TREATMENT).values()
    assert (identity.work_key(Knobs()), series(Knobs())) == ("afc6b7cc2b271275", "4b1a217a64946ac7")


def test_a_default_and_the_same_value_written_out_are_one_work() -> None:
    written = Knobs(optimizer="adamw", learning_rate=1e-3, weight_decay=0.0)
    assert identity.work_key(Knobs()) == identity.work_key(written)


def test_the_keys_survive_a_stored_case() -> None:
    knobs = Knobs(batch_size=4, model_kwargs={"b": 1, "a": 2})
    case = Case(scenario="s", case="c", knobs=knobs, measure=Measure())
    back = Case.model_validate_json(case.model_dump_json(by_alias=True))
    assert back == case
    assert series(back.knobs) == series(knobs)
    assert fingerprint(back.knobs, back.measure) == fingerprint(knobs, Measure())


def test_what_a_file_says_stands_in_place_of_its_path() -> None:
    one, two = (
        pair("zero.config")[1],
        Knobs.model_validate({"engine": "deepspeed", "zero": {"config": "elsewhere/b.json"}}),
    )
    says, more = {"zero.config": "0123"}, {"zero.config": "4567"}
    assert series(one, contents=says) == series(two, contents=says)
    assert series(one, contents=says) != series(one, contents=more)
