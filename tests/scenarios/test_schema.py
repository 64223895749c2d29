"""The model: which combinations mean nothing, and which defaults follow others."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bench.scenarios.schema import DataKnobs, FsdpKnobs, Knobs, LoaderKnobs, Measure, Scenario


@pytest.mark.parametrize(
    ("knobs", "part"),
    [
        ({"data": {"pool": 2}}, "pool has no meaning for source=random"),
        ({"data": {"source": "cached", "images": 2}}, "images has no meaning for source=cached"),
        ({"data": {"prefetch": 2}}, "prefetch needs a worker"),
        ({"data": {"source": "device", "workers": 1}}, "source=device has no host loader"),
        ({"data": {"source": "device", "pin_memory": True}}, "source=device has no host loader"),
        ({"momentum": 0.5}, "momentum has no meaning for optimizer=adamw"),
        ({"task": "infer", "optimizer": "sgd"}, "optimizer has no meaning for task=infer"),
        ({"task": "infer", "gradient_accumulation": 2}, "gradient_accumulation has no meaning"),
        ({"task": "infer", "activation_checkpointing": True}, "activation_checkpointing has no"),
        ({"compile_mode": "default"}, "compile_mode has no meaning for compile=none"),
        ({"engine": "plain", "processes": 2}, "engine=plain drives one process, not 2"),
        (
            {"engine": "spmd", "processes": 2},
            "engine=spmd drives the devices of one process, not of 2: .*spmd.devices to their num",
        ),
        ({"engine": "spmd", "nodes": 2}, "and nodes=1"),
        ({"spmd": {"devices": 2}}, "spmd.devices has no meaning for engine=plain: set engine=spmd"),
        ({"fsdp": {"offload": "none"}}, "fsdp.offload has no meaning for engine=plain: set engine"),
        (
            {"engine": "ddp", "fsdp": {"reshard_after_forward": True}},
            "or remove fsdp.reshard_after_forward",
        ),
        ({"engine": "fsdp", "fsdp": {"offload": "nvme"}}, "'none' or 'cpu'"),
        (
            {"zero": {"stage": 2}},
            "zero.stage has no meaning for engine=plain: set engine=deepspeed",
        ),
        ({"accelerate": {"config": "a.yaml"}}, "accelerate.config has no meaning for engine=plain"),
        ({"engine": "deepspeed", "task": "infer"}, "no meaning for task=infer"),
        (
            {"engine": "deepspeed", "zero": {"stage": 0, "offload_optimizer": "cpu"}},
            "zero.offload_optimizer=cpu does nothing at zero.stage=0.*to 1 or more",
        ),
        (
            {"engine": "deepspeed", "zero": {"offload_param": "cpu"}},
            "zero.offload_param=cpu does nothing at zero.stage=2.*to 3 or more",
        ),
        (
            {"engine": "deepspeed", "zero": {"stage": 2, "offload_optimizer": "nvme"}},
            "offload_optimizer=nvme at zero.stage=2 would be kept in the host's memory.*=cpu",
        ),
        (
            {"engine": "deepspeed", "zero": {"stage": 2, "offload_param": "nvme"}},
            "zero.offload_param=nvme does nothing at zero.stage=2.*to 3 or more",
        ),
        (
            {"engine": "deepspeed", "zero": {"stage": 3, "nvme_path": "/drive"}},
            "zero.nvme_path has no meaning where nothing is kept in files: set zero.offload_opt",
        ),
        ({"model": "a:b:c"}, "module:factory"),
        ({"batch_size": "8"}, "valid integer"),
        ({"batch_size": True}, "valid integer"),
        ({"channels_last": 1}, "valid boolean"),
    ],
)
def test_a_combination_that_means_nothing_is_refused(knobs: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        Knobs.model_validate(knobs)


@pytest.mark.parametrize(
    ("measure", "part"),
    [
        ({"precision_target": 2.0, "launches": 2}, "at least 3 launches"),
        ({"precision_target": 2.0, "launches": 31}, "max_launches is below launches"),
    ],
)
def test_a_protocol_that_cannot_work_is_refused(measure: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        Measure.model_validate(measure)


def test_a_limit_on_launches_binds_only_where_a_precision_is_to_be_reached() -> None:
    assert Measure(launches=31).launches == 31


def test_a_given_pool_keeps_its_size_and_a_null_one_outgrows_a_graph() -> None:
    loader = {"batches_per_execution": 16}
    null = {"data": {"source": "device"}, "loader": loader}
    given = {"data": {"source": "device", "pool": 3}, "loader": loader}
    cached = {"data": {"source": "cached"}, "loader": loader}
    assert [Knobs.model_validate(k).data.pool for k in (null, given, cached)] == [17, 3, 8]
    assert Knobs.model_validate(null).model_dump(exclude_unset=True) == null
    ready_made = DataKnobs(source="device")
    assert Knobs(data=ready_made, loader=LoaderKnobs(batches_per_execution=16)).data.pool == 17
    assert ready_made.pool == 8


def test_defaults_follow_the_task_the_processes_and_the_compiler() -> None:
    train = Knobs(processes=2, compile="inductor")
    assert (train.optimizer, train.learning_rate, train.engine) == ("adamw", 1e-3, "ddp")
    assert train.compile_mode == "default"
    infer = Knobs(task="infer")
    assert (infer.optimizer, infer.learning_rate, infer.engine) == (None, None, "plain")
    assert infer.compile_mode is None


def test_devices_are_counted_over_processes_and_their_own() -> None:
    pair = Knobs(engine="spmd", batch_size=8)
    assert (pair.spmd.devices, pair.devices, pair.process_batch) == (2, 2, 16)
    ranks = Knobs(processes=3, batch_size=8)
    assert (ranks.spmd.devices, ranks.devices, ranks.process_batch) == (None, 3, 8)


def test_defaults_follow_the_engine() -> None:
    assert Knobs(engine="fsdp").fsdp.offload == "none"
    assert Knobs(engine="fsdp").fsdp.reshard_after_forward is None
    assert set(Knobs(engine="ddp").fsdp.model_dump().values()) == {None}
    assert Knobs(engine="fsdp").model_dump(exclude_unset=True) == {"engine": "fsdp"}
    zero = Knobs(engine="deepspeed").zero
    assert (zero.stage, zero.offload_optimizer, zero.offload_param) == (2, "none", "none")
    ready_made = FsdpKnobs()
    assert Knobs(engine="fsdp", fsdp=ready_made).fsdp.offload == "none"
    assert ready_made.offload is None


def test_what_is_offloaded_is_told_in_words() -> None:
    assert Knobs().offloads is None
    assert Knobs(engine="fsdp").offloads is None
    on_the_host = Knobs(engine="fsdp", fsdp=FsdpKnobs(offload="cpu"))
    assert (on_the_host.offloads, on_the_host.offloaded) == (
        "fsdp.offload=cpu",
        {"fsdp.offload": "cpu"},
    )


@pytest.mark.parametrize("given", [{}, {"optimizer": None, "learning_rate": None, "engine": None}])
def test_a_filled_default_was_not_asked_for(given: dict[str, Any]) -> None:
    assert Knobs.model_validate(given).model_dump(exclude_unset=True) == {}


def test_one_scenario_makes_its_cases_one_way() -> None:
    with pytest.raises(ValidationError, match="choose one of matrix, ladder and cases"):
        Scenario.model_validate(
            {"schema": 1, "name": "x", "matrix": {"seed": [1]}, "cases": [{"case": "a"}]}
        )
