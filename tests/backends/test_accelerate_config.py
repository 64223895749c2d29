"""A configuration of accelerate's own: what is taken, and what is refused by name."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.backends import users_files
from bench.backends.accelerate_config import acting, check
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Knobs

TWO: dict[str, Any] = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "MULTI_CPU",
    "mixed_precision": "no",
    "num_processes": 2,
}
needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed"
)


def checked(config: dict[str, Any], backend: str = "cpu", **knobs: Any) -> None:
    check(config, Knobs(engine="accelerate", **knobs), backend, "FILE")


def refusal(config: dict[str, Any], backend: str = "cpu", **knobs: Any) -> str:
    with pytest.raises(ScenarioError) as raised:
        checked(config, backend, **knobs)
    return str(raised.value)


@pytest.mark.torch
@needs_accelerate
@pytest.mark.parametrize(
    ("answers", "backend", "settings"),
    [
        ({"distributed_type": "MULTI_CPU", "use_cpu": True}, "cpu", {"processes": 2}),
        (
            {"distributed_type": "MULTI_GPU", "gpu_ids": "all", "mixed_precision": "bf16"},
            "cuda",
            {"processes": 2, "precision": "amp-bf16"},
        ),
        (
            {"distributed_type": "MULTI_GPU", "num_machines": 2, "main_process_ip": "10.0.0.1"},
            "cuda",
            {"processes": 2, "nodes": 2},
        ),
        ({"distributed_type": "NO", "num_processes": 1}, "cpu", {}),
    ],
    ids=str,
)
def test_a_file_is_taken_as_accelerates_questionnaire_writes_it(
    tmp_path: Path, answers: dict[str, Any], backend: str, settings: dict[str, Any]
) -> None:
    """With every argument that the questionnaire gives, whatever was answered."""
    from accelerate.commands.config.config_args import ClusterConfig

    given: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "num_processes": 2,
        "gpu_ids": None,
        "mixed_precision": "no",
        "downcast_bf16": "no",
        "machine_rank": 0,
        "num_machines": 1,
        "main_process_ip": None,
        "main_process_port": None,
        "main_training_function": "main",
        "fp8_config": None,
        "deepspeed_config": {},
        "fsdp_config": {},
        "megatron_lm_config": {},
        "mpirun_config": {},
        "use_cpu": False,
        "rdzv_backend": "static",
        "same_network": True,
        "commands": None,
        "command_file": None,
        "tpu_env": [],
        "tpu_name": None,
        "tpu_vm": None,
        "tpu_zone": None,
        "tpu_use_sudo": False,
        "tpu_use_cluster": False,
        "dynamo_config": {},
        "debug": False,
        "enable_cpu_affinity": False,
    }
    path = tmp_path / "default_config.yaml"
    ClusterConfig(**(given | answers)).to_yaml_file(path)
    assert "tpu_env: []" in path.read_text(encoding="utf-8")
    says = users_files.read("accelerate.config", path)
    checked(says, backend, **settings)
    assert acting(says)["distributed_type"] == answers["distributed_type"]


@pytest.mark.torch
@needs_accelerate
def test_a_file_is_taken_as_accelerate_config_default_writes_it(tmp_path: Path) -> None:
    from accelerate.commands.config.default import write_basic_config

    path = tmp_path / "default_config.yaml"
    assert write_basic_config("bf16", str(path)) == path
    says = users_files.read("accelerate.config", path)
    if says["distributed_type"] == "NO":
        checked(says, "cpu" if says["use_cpu"] else "cuda", precision="amp-bf16")
    assert acting(says)["mixed_precision"] == "bf16"


def test_one_that_says_what_the_case_says_is_taken() -> None:
    checked(TWO, processes=2)
    checked({}, processes=2)
    checked({"num_processes": -1}, processes=2)


def test_an_adapter_of_somebody_else_is_not_known_to_compute_on_the_host() -> None:
    checked({"distributed_type": "MULTI_GPU", "use_cpu": True}, backend="theirs")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_processes": 4}, "num_processes=4 contradicts processes=2, for which it is 2"),
        ({"num_machines": 2}, "num_machines=2 contradicts nodes=1, for which it is 1"),
        ({"mixed_precision": "bf16"}, "mixed_precision=bf16 contradicts precision=fp32"),
        ({"distributed_type": "NO"}, "distributed_type=NO contradicts processes=2"),
        ({"distributed_type": False}, "distributed_type=NO contradicts processes=2"),
        ({"distributed_type": "MULTI_GPU"}, "MULTI_GPU contradicts --backend=cpu"),
        ({"distributed_type": "FSDP"}, "FSDP is not driven; set engine=fsdp, which drives"),
        ({"distributed_type": "DEEPSPEED"}, "DEEPSPEED is not driven; set engine=deepspeed, which"),
        ({"distributed_type": "MEGATRON_LM"}, "MEGATRON_LM is not driven; set engine=ddp, fsdp or"),
        ({"distributed_type": "TP"}, "distributed_type=TP is not driven; set engine=ddp"),
        ({"fsdp_config": {"fsdp_version": 2}}, "is not honoured; remove it"),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "not honoured; set compile and"),
        ({"enable_cpu_affinity": True}, "enable_cpu_affinity=True is not honoured; remove it"),
        ({"gpu_ids": "0,1"}, "gpu_ids=0,1 is not honoured; set CUDA_VISIBLE_DEVICES"),
        ({"num_proceses": 2}, "num_proceses=2 is not honoured; remove it"),
    ],
)
def test_what_contradicts_the_case_or_is_not_honoured_is_refused_by_name(
    changes: dict[str, Any], said: str
) -> None:
    assert said in refusal(TWO | changes, processes=2)


def test_what_a_file_leaves_to_the_case_must_not_be_what_it_denies() -> None:
    said = refusal({"mixed_precision": False}, precision="amp-bf16")
    assert "mixed_precision=no contradicts precision=amp-bf16, for which it is bf16" in said
    assert "; remove mixed_precision, or change precision" in said


def test_a_gpu_is_not_the_host() -> None:
    said = refusal({"use_cpu": True}, backend="cuda")
    assert "use_cpu=True contradicts --backend=cuda, for which it is False" in said
    said = refusal({"distributed_type": "MULTI_CPU"}, backend="cuda")
    assert "MULTI_CPU contradicts --backend=cuda, for which it is MULTI_GPU" in said


def test_the_launchers_part_and_what_is_off_are_no_part_of_the_setting(tmp_path: Path) -> None:
    """Each node of a run has a file of its own, with its own rank and the first one's address."""
    own = {"machine_rank": 1, "main_process_ip": "10.0.0.1", "tpu_env": [], "debug": False}
    assert acting(TWO | own | {"use_cpu": False}) == {
        "distributed_type": "MULTI_CPU",
        "mixed_precision": "no",
        "num_processes": 2,
    }
    found = []
    for number, config in enumerate((TWO, TWO | own, TWO | {"num_processes": 3})):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        found.append(users_files.digest("accelerate.config", path))
    assert found[0] == found[1] != found[2]
