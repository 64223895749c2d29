"""DeepSpeed's configuration: what a case means, and what a file of the user's may add to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.backends.base import World
from bench.scenarios.schema import Knobs
from bench.workload.engines.zero_config import configuration
from bench.workload.errors import BadCase


def of(**settings: Any) -> dict[str, Any]:
    """Return the configuration of a case over two ranks of a device with a memory of its own."""
    knobs = Knobs.model_validate({"engine": "deepspeed", "processes": 2, **settings})
    return configuration(knobs, World(size=2), page_locked=True)


def merged(folder: Path, users: Any, **settings: Any) -> dict[str, Any]:
    """Return the same with a file of the user's."""
    path = folder / "zero.json"
    path.write_text(json.dumps(users), encoding="utf-8")
    return of(**{**settings, "zero": {"config": str(path), **settings.get("zero", {})}})


def test_what_deepspeed_would_decide_by_itself_is_written_out() -> None:
    found = of(batch_size=4, gradient_accumulation=3)
    assert found["gradient_clipping"] == 0.0
    assert found["timers"]["throughput"]["enabled"] is False
    assert found["zero_optimization"] == {"stage": 2}
    assert (found["train_batch_size"], found["train_micro_batch_size_per_gpu"]) == (24, 4)
    assert found["gradient_accumulation_steps"] == 3
    assert found["zero_force_ds_cpu_optimizer"] is False
    assert "torch_autocast" not in found


def test_offloading_is_page_locked_where_the_device_has_a_memory_of_its_own() -> None:
    zero = {"stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"}
    offload = {"device": "cpu", "pin_memory": True}
    assert of(zero=zero)["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": offload,
        "offload_param": offload,
    }


def test_autocast_casts_and_exchanges_gradients_in_float32() -> None:
    assert of(precision="amp-bf16")["torch_autocast"] == {
        "enabled": True,
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],
    }


def test_a_file_of_the_users_adds_to_it(tmp_path: Path) -> None:
    users = {
        "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "overlap_comm": True},
        "train_batch_size": "auto",
        "gradient_clipping": 0.0,
        "steps_per_print": 5,
        "timers": {"throughput": {"enabled": True}},
        "communication_data_type": "fp32",
    }
    found = merged(tmp_path, users, batch_size=4)
    assert found["zero_optimization"] == users["zero_optimization"]
    assert (found["train_batch_size"], found["steps_per_print"]) == (8, 5)
    assert found["timers"]["throughput"] == {"enabled": True, "synchronized": False}
    assert found["communication_data_type"] == "fp32"


@pytest.mark.parametrize("section", [None, {"device": "none"}])
def test_a_file_that_offloads_nothing_contradicts_nothing(
    tmp_path: Path, section: dict[str, str] | None
) -> None:
    users = {"zero_optimization": {"offload_optimizer": section}}
    assert merged(tmp_path, users)["zero_optimization"] == {"stage": 2}


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ({"gradient_clipping": 1.0}, "gradient_clipping=1.0 contradicts the case.*it is 0.0"),
        ({"train_batch_size": 7}, "train_batch_size=7 contradicts.*or change batch_size"),
        ({"zero_optimization": {"stage": 3}}, "stage=3 contradicts.*or change zero.stage"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer=.*for which it is null.*or change zero.offload_optimizer",
        ),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast"),
        ({"optimizer": {"type": "Adam"}}, "optimizer is not honoured: set optimizer"),
        ({"bf16": {"enabled": True}}, "bf16 is not honoured: set precision"),
    ],
)
def test_what_contradicts_the_case_is_refused_by_name(
    tmp_path: Path, users: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadCase, match=said):
        merged(tmp_path, users)


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCase, match="it holds no keys and values"):
        merged(tmp_path, [1])
    path = tmp_path / "zero.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(BadCase, match="it cannot be read"):
        of(zero={"config": str(path)})
