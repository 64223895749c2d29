"""The model: which combinations mean nothing, and which defaults follow others."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bench.scenarios.schema import DataKnobs, Knobs, LoaderKnobs, Measure, Scenario


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


@pytest.mark.parametrize("given", [{}, {"optimizer": None, "learning_rate": None, "engine": None}])
def test_a_filled_default_was_not_asked_for(given: dict[str, Any]) -> None:
    assert Knobs.model_validate(given).model_dump(exclude_unset=True) == {}


def test_one_scenario_makes_its_cases_one_way() -> None:
    with pytest.raises(ValidationError, match="choose one of matrix, ladder and cases"):
        Scenario.model_validate(
            {"schema": 1, "name": "x", "matrix": {"seed": [1]}, "cases": [{"case": "a"}]}
        )
