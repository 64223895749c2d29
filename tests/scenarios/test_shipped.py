"""The files that come with the program: valid, on every kind of device, and true to their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

import bench.scenarios
from bench.scenarios import yamltext
from bench.scenarios.compose import load, shipped
from bench.scenarios.expand import expand
from bench.scenarios.export import json_schema
from bench.scenarios.schema import Case, Knobs

FOLDER = Path(bench.scenarios.__file__).parent
NAMES = [name for name, _ in shipped()]


def cases_of(name: str, *refused: str) -> list[Case]:
    """Return the cases on a device that refuses these precisions or `batches_per_execution`."""

    def refuses(knobs: Knobs) -> bool:
        many = knobs.loader.batches_per_execution > 1
        return knobs.precision in refused or ("batches_per_execution" in refused and many)

    return expand(load(name), sweeps={}, refused=refuses)


def read(name: str) -> Any:
    return yamltext.parse((FOLDER / f"{name}.yaml").read_text("utf-8"), name)


def accepts(tree: object) -> bool:
    return jsonschema.Draft202012Validator(json_schema()).is_valid(tree)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_named_like_its_scenario_and_opens_with_its_question(name: str) -> None:
    first = (FOLDER / f"{name}.yaml").read_text("utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith("?")
    assert read(name)["name"] == name == load(name).name


def test_quick_is_two_cases_of_a_small_vit_within_a_minute_of_windows() -> None:
    cases = cases_of("quick")
    assert [case.knobs.precision for case in cases] == ["fp32", "amp-bf16"]
    assert {case.knobs.model for case in cases} == {"vit_tiny_patch16_224"}
    assert sum(case.measure.budget_s for case in cases) == 24
    assert {case.measure.launches for case in cases} == {3}


def test_vit_train_trains_and_infers() -> None:
    assert [(c.knobs.task, c.knobs.batch_size) for c in cases_of("vit-train")] == [
        ("train", 8),
        ("infer", 8),
    ]


def test_the_ladder_branches_where_the_study_did() -> None:
    seen = [
        (c.case, c.on, k.batch_size, k.data.workers, k.precision, k.loader.batches_per_execution)
        for c in cases_of("vit-ladder")
        for k in [c.knobs]
    ]
    assert seen == [
        ("baseline", None, 16, 0, "fp32", 1),
        ("loader-worker", "baseline", 16, 1, "fp32", 1),
        ("batch-size", "loader-worker", 8, 1, "fp32", 1),
        ("autocast", "batch-size", 8, 1, "amp-bf16", 1),
        ("bf16-everywhere", "batch-size", 8, 1, "bf16-env", 1),
        ("bf16-cast", "batch-size", 8, 1, "bf16", 1),
        ("steps-per-graph", "bf16-everywhere", 8, 1, "bf16-env", 10),
        ("compiler-bf16", "steps-per-graph", 8, 1, "fp32", 10),
        ("fp8", "steps-per-graph", 8, 1, "fp32", 10),
        ("compiler-flags", "steps-per-graph", 8, 1, "bf16-env", 10),
    ]
    assert {case.knobs.optimizer for case in cases_of("vit-ladder")} == {"adam"}
    assert all(case.remark for case in cases_of("vit-ladder"))


def test_on_an_eager_device_the_ladder_goes_on_below_what_is_refused() -> None:
    cases = {c.case: c for c in cases_of("vit-ladder", "bf16-env", "batches_per_execution")}
    assert len(cases) == 10
    assert cases["bf16-cast"].on == "batch-size"
    assert cases["steps-per-graph"].on == "batch-size"
    assert cases["steps-per-graph"].knobs.precision == "fp32"


def test_the_matrix_is_batch_by_precision() -> None:
    cases = cases_of("vit-matrix")
    assert len(cases) == 9
    assert len({(c.knobs.batch_size, c.knobs.precision) for c in cases}) == 9


def test_what_vit_offload_keeps_on_the_host_stands_beside_the_same_on_the_device() -> None:
    seen = {c.case: c.knobs for c in cases_of("vit-offload")}
    assert {name for name, knobs in seen.items() if knobs.offloads} == {
        "fsdp-host",
        "zero-2-optimizer-host",
        "zero-3-optimizer-host",
        "zero-3-param-host",
        "zero-3-host",
        "zero-3-optimizer-files",
        "zero-3-files",
    }
    for name, knobs in seen.items():
        settings = knobs.model_dump()
        for group, knob in (("fsdp", "offload"), ("zero", "offload_optimizer")):
            if settings[group][knob] is not None:
                settings[group][knob] = "none"
        if settings["zero"]["offload_param"] is not None:
            settings["zero"]["offload_param"] = "none"
        kept = next(n for n, other in seen.items() if other.model_dump() == settings)
        assert (kept == name) == (knobs.offloads is None)
        assert list(seen).index(kept) <= list(seen).index(name)
    assert {(knobs.engine, knobs.zero.stage) for knobs in seen.values()} == {
        ("ddp", None),
        ("fsdp", None),
        ("deepspeed", 2),
        ("deepspeed", 3),
    }


def test_vit_scaling_keeps_the_batch_of_a_device_or_that_of_all() -> None:
    seen = {c.case: c.knobs for c in cases_of("vit-scaling")}
    assert [knobs.devices for knobs in seen.values()] == [1, 2, 2, 4, 4, 8, 8]
    one = seen.pop("one")
    for name, knobs in seen.items():
        each = knobs.batch_size if name.startswith("weak") else knobs.batch_size * knobs.devices
        assert each == one.batch_size
        assert knobs.engine == "ddp"


def test_vit_scaling_over_nodes_keeps_its_first_case_on_one_of_them() -> None:
    cases = expand(load("vit-scaling", ["nodes=2"]), sweeps={}, refused=lambda _: False)
    assert [case.knobs.nodes for case in cases] == [1, 2, 2, 2, 2, 2, 2]


def test_the_loader_crosses_sources_and_workers_where_there_is_a_loader() -> None:
    pairs = {(c.knobs.data.source, c.knobs.data.workers) for c in cases_of("loader")}
    hosts = {(source, n) for source in ("random", "cached", "jpeg") for n in (0, 1, 2)}
    assert pairs == hosts | {("device", 0)}


# The exported schema


def test_the_export_is_a_schema_of_the_dialect_it_names() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_file_follows_the_export(name: str) -> None:
    jsonschema.validate(read(name), json_schema(), jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "tree",
    [
        {"schema": 1},
        {"schema": 1, "extends": "quick"},
        {"schema": 1, "batch_size": "${classes}"},
        {"schema": 1, "data": {"pool": "${batch_size}", "workers": 1}},
        {"schema": 1, "matrix": {"data": {"workers": [1, 2]}, "seed": [1]}},
        {"schema": 1, "optimizer": None},
    ],
)
def test_the_export_accepts_what_composition_does(tree: dict[str, Any]) -> None:
    assert accepts(tree)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"schema": 2},
        {"schema": 1, "batchsize": 4},
        {"schema": 1, "batch_size": "4"},
        {"schema": 1, "batch_size": "${oc.env:HOME}"},
        {"schema": 1, "batch_size": 0},
        {"schema": 1, "precision": "fp16"},
        {"schema": 1, "data": {"source": "disk"}},
        {"schema": 1, "extends": ["a"]},
        {"schema": 1, "matrix": {"seed": 1}},
        {"schema": 1, "cases": [{"set": {}}]},
    ],
)
def test_the_export_refuses_what_validation_does(tree: dict[str, Any]) -> None:
    assert not accepts(tree)
