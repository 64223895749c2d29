"""DeepSpeed's configuration: what a case means, and what a file of the user's may add to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.backends.zero_config import configuration
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Knobs

FILE = "zero.config=zero.json"


def of(users: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """Return the configuration of a case over two ranks of a device with a memory of its own."""
    knobs = Knobs.model_validate({"engine": "deepspeed", "processes": 2, **settings})
    return configuration(knobs, users or {}, FILE, page_locked=True, swap_folder=Path("drive"))


def test_what_deepspeed_would_decide_by_itself_is_written_out() -> None:
    found = of(batch_size=4, gradient_accumulation=3)
    assert found["gradient_clipping"] == 0.0
    assert found["gradient_allreduce_op"] == "mean"
    assert found["communication_data_type"] == "fp32"
    assert found["timers"]["throughput"]["enabled"] is False
    assert found["zero_optimization"] == {"stage": 2}
    assert (found["train_batch_size"], found["train_micro_batch_size_per_gpu"]) == (24, 4)
    assert found["gradient_accumulation_steps"] == 3
    assert found["zero_force_ds_cpu_optimizer"] is False
    assert "torch_autocast" not in found
    assert "aio" not in found


def test_offloading_is_page_locked_where_the_device_has_a_memory_of_its_own() -> None:
    zero = {"stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"}
    offload = {"device": "cpu", "pin_memory": True}
    assert of(zero=zero)["zero_optimization"] == {
        "stage": 3,
        "offload_optimizer": offload,
        "offload_param": offload,
    }


def test_what_is_kept_in_files_is_kept_there_from_the_first_weight_on() -> None:
    """DeepSpeed itself would keep the first 1e9 of a rank in memory, and what is used again."""
    zero = {"stage": 3, "offload_optimizer": "nvme", "offload_param": "nvme"}
    found = of(zero=zero)
    drive = {"device": "nvme", "pin_memory": True, "nvme_path": "drive"}
    assert found["zero_optimization"]["offload_optimizer"] == drive
    assert found["zero_optimization"]["offload_param"] == drive | {"max_in_cpu": 0}
    assert found["aio"] == {}
    assert found["zero_optimization"]["stage3_max_reuse_distance"] == 0
    users = {"zero_optimization": {"stage3_max_reuse_distance": 1e6}}
    assert of(users, zero=zero)["zero_optimization"]["stage3_max_reuse_distance"] == 1e6


def test_autocast_casts_and_exchanges_gradients_in_float32() -> None:
    assert of(precision="amp-bf16")["torch_autocast"] == {
        "enabled": True,
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],
    }


def test_a_file_of_the_users_adds_what_makes_it_faster_or_slower() -> None:
    users = {
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": 1000,
            "overlap_comm": True,
            "stage3_prefetch_bucket_size": 5e7,
            "offload_optimizer": {"device": "nvme", "buffer_count": 5, "pin_memory": False},
        },
        "aio": {"queue_depth": 32},
        "gradient_clipping": 0.0,
        "steps_per_print": 5,
        "communication_data_type": "fp32",
    }
    found = of(users, batch_size=4, zero={"stage": 3, "offload_optimizer": "nvme"})
    zero = found["zero_optimization"]
    assert (zero["reduce_bucket_size"], zero["overlap_comm"]) == (1000, True)
    assert zero["stage3_prefetch_bucket_size"] == 5e7
    assert zero["offload_optimizer"] == {
        "device": "nvme",
        "pin_memory": False,
        "nvme_path": "drive",
        "buffer_count": 5,
    }
    assert (found["aio"], found["steps_per_print"]) == ({"queue_depth": 32}, 5)


def test_a_file_as_other_programs_have_it_says_nothing_where_it_is_off_or_auto() -> None:
    users = {
        "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16},
        "bf16": {"enabled": False},
        "optimizer": {"params": {"lr": "auto", "betas": "auto"}},
        "scheduler": {"params": {"warmup_num_steps": "auto"}},
        "flops_profiler": {"enabled": False, "profile_step": 1},
        "torch_autocast": {"enabled": False},
        "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"},
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "wall_clock_breakdown": False,
    }
    assert of(users) == of()


@pytest.mark.parametrize("section", [None, {"device": "none"}])
def test_a_file_that_offloads_nothing_contradicts_a_case_that_does(
    section: dict[str, str] | None,
) -> None:
    users = {"zero_optimization": {"offload_optimizer": section}}
    assert of(users)["zero_optimization"] == {"stage": 2}
    with pytest.raises(ScenarioError, match=r"offload_optimizer.*or change zero\.offload_opt"):
        of(users, zero={"offload_optimizer": "cpu"})


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
        ({"aio": {"queue_depth": 8}}, "aio=.*or change zero.offload_optimizer or .* to nvme"),
        ({"gradient_allreduce_op": "sum"}, 'gradient_allreduce_op="sum" contradicts.*"mean"'),
        ({"communication_data_type": "bf16"}, 'type="bf16" contradicts.*"fp32"'),
        ({"timers": {"throughput": {"enabled": True}}}, "throughput.enabled=true contradicts"),
    ],
)
def test_what_contradicts_the_case_is_refused_by_name(users: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=f"{FILE}: .*{said}"):
        of(users)


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ({"optimizer": {"type": "Adam"}}, "optimizer is not honoured; set optimizer"),
        ({"bf16": {"enabled": True}}, "bf16 is not honoured; set precision"),
        ({"prescale_gradients": True}, "prescale_gradients is not honoured; remove it"),
        ({"managed_gradient_accumulation": False}, "managed_gradient_accumulation is not"),
        ({"wall_clock_breakdown": True}, "wall_clock_breakdown is not honoured"),
        ({"flops_profiler": {"enabled": True}}, "flops_profiler is not honoured"),
        ({"wandb": {"enabled": True, "team": "us"}}, "wandb is not honoured"),
        ({"weight_quantization": {}}, "weight_quantization is not honoured"),
        (
            {"zero_optimization": {"zero_quantized_gradients": True}},
            "zero_optimization.zero_quantized_gradients is not honoured",
        ),
        (
            {"zero_optimization": {"reduce_bucket_sizes": 1}},
            r"reduce_bucket_sizes is not honoured; did you mean .*reduce_bucket_size\?",
        ),
        ({"zero_optimisation": {"stage": 2}}, "zero_optimisation is not honoured"),
        (
            {"zero_optimization": {"stage3_max_live_parameters": 1}},
            "stage3_max_live_parameters does nothing at zero.stage=2; remove it, or set",
        ),
        (
            {"zero_optimization": {"sub_group_size": 1000}},
            "sub_group_size does nothing at zero.stage=2; remove it, or set zero.stage=3",
        ),
        (
            {"zero_optimization": {"allgather_partitions": True}},
            "allgather_partitions is not honoured; remove it: DeepSpeed reads it nowhere",
        ),
        (
            {"zero_optimization": {"reduce_bucket_size": "big"}},
            'reduce_bucket_size="big" is not a number',
        ),
    ],
)
def test_what_trains_otherwise_or_is_unknown_is_refused_by_name(
    users: dict[str, Any], said: str
) -> None:
    with pytest.raises(ScenarioError, match=said):
        of(users)


def test_how_much_leaves_memory_is_not_a_files_to_say() -> None:
    zero = {"stage": 3, "offload_param": "nvme"}
    for key in ("max_in_cpu", "nvme_path"):
        users = {"zero_optimization": {"offload_param": {"device": "nvme", key: 7}}}
        with pytest.raises(ScenarioError, match=rf"offload_param.{key}=7 contradicts"):
            of(users, zero=zero)
    users = {"zero_optimization": {"offload_optimizer": {"device": "cpu", "ratio": 0.5}}}
    with pytest.raises(ScenarioError, match=r"offload_optimizer\.ratio is not honoured"):
        of(users, zero={"stage": 3, "offload_optimizer": "cpu"})


@pytest.mark.parametrize(
    "key",
    [
        "allgather_bucket_size",
        "compute_grad_norm",
        "parameter_alignment",
        "round_robin_gradients",
        "use_multi_rank_bucket_allreduce",
    ],
)
def test_what_acts_on_flat_buffers_alone_is_refused_where_there_are_none(key: str) -> None:
    users = {"zero_optimization": {key: True}}
    for stage in (0, 3):
        with pytest.raises(ScenarioError, match=f"{key} does nothing at .* zero.stage=1 or 2"):
            of(users, zero={"stage": stage})
    for stage in (1, 2):
        assert of(users, zero={"stage": stage})["zero_optimization"][key] is True


def test_where_nothing_is_shared_out_no_setting_of_that_is_taken() -> None:
    for key in ("contiguous_gradients", "overlap_comm", "reduce_bucket_size", "reduce_scatter"):
        with pytest.raises(ScenarioError, match=f"{key} does nothing at zero.stage=0"):
            of({"zero_optimization": {key: 1}}, zero={"stage": 0})
    assert of({"steps_per_print": 5}, zero={"stage": 0})["steps_per_print"] == 5


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("offload_optimizer", "buffer_count"),
        ("offload_param", "buffer_count"),
        ("offload_param", "buffer_size"),
    ],
)
def test_buffers_for_files_are_refused_where_there_are_no_files(section: str, key: str) -> None:
    users = {"zero_optimization": {section: {key: 6}}}
    with pytest.raises(ScenarioError, match=rf"{key} does nothing where .*or set zero.{section}"):
        of(users, zero={"stage": 3, section: "cpu"})
    assert of(users, zero={"stage": 3, section: "nvme"})["zero_optimization"][section][key] == 6


@pytest.mark.parametrize(
    "zero", [{"stage": 0}, {"stage": 3}, {"stage": 2, "offload_optimizer": "cpu"}], ids=str
)
def test_a_norm_that_deepspeed_cannot_leave_out_is_refused_by_name(zero: dict[str, Any]) -> None:
    """DeepSpeed ends with an error there."""
    users = {"zero_optimization": {"compute_grad_norm": False}}
    assert of(users)["zero_optimization"]["compute_grad_norm"] is False
    with pytest.raises(ScenarioError, match="compute_grad_norm=false at stages 1 and 2 alone"):
        of(users, zero=zero)


@pytest.mark.parametrize("key", ["pipeline_read", "pipeline_write", "fast_init"])
def test_a_way_of_offloading_that_cannot_be_shown_to_leave_memory_is_refused(key: str) -> None:
    zero = {"stage": 3, "offload_optimizer": "nvme"}
    users = {"zero_optimization": {"offload_optimizer": {key: True}}}
    with pytest.raises(ScenarioError, match=f"{key} is not honoured; remove it"):
        of(users, zero=zero)
    users["zero_optimization"]["offload_optimizer"][key] = False
    assert of(users, zero=zero) == of(zero=zero)
