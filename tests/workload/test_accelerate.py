"""A configuration of accelerate's own: what is read of it, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.scenarios.schema import AccelerateKnobs, Knobs
from bench.workload.engines.accelerate import configured, variables_of
from bench.workload.errors import BadCase

FSDP2: dict[str, Any] = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "mixed_precision": "no",
    "num_processes": 2,
    "tpu_use_cluster": False,
    "fsdp_config": {"fsdp_version": 2, "fsdp_reshard_after_forward": True},
}


def read(folder: Path, config: Any, **knobs: Any) -> dict[str, str]:
    """Write a configuration, and return the variables that it becomes."""
    path = folder / "accelerate.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    case = Knobs(engine="accelerate", accelerate=AccelerateKnobs(config=str(path)), **knobs)
    return variables_of(configured(case), case)


def test_without_one_nothing_is_said() -> None:
    assert configured(Knobs(engine="accelerate")) == {}


def test_fsdp2_becomes_the_variables_that_accelerate_reads(tmp_path: Path) -> None:
    assert read(tmp_path, FSDP2, processes=2) == {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "True",
    }


@pytest.mark.parametrize("kind", ["NO", "MULTI_CPU", "MULTI_GPU"])
def test_replicated_kinds_need_none(tmp_path: Path, kind: str) -> None:
    assert read(tmp_path, {"distributed_type": kind, "use_cpu": True}) == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_processes": 4}, "num_processes=4 contradicts processes=2, for which it is 2"),
        ({"mixed_precision": "bf16"}, "mixed_precision=bf16 contradicts precision=fp32"),
        ({"distributed_type": "DEEPSPEED"}, "engine=deepspeed drives that directly"),
        ({"distributed_type": "MEGATRON_LM"}, "distributed_type=MEGATRON_LM is not honoured"),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "dynamo_config is not honoured"),
        ({"fsdp_config": {"fsdp_version": 1}}, "fsdp_version must be 2"),
        (
            {"fsdp_config": {"fsdp_version": 2, "fsdp_activation_checkpointing": True}},
            "fsdp_config.fsdp_activation_checkpointing is not honoured",
        ),
    ],
)
def test_what_contradicts_a_knob_or_is_not_honoured_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadCase, match=said):
        read(tmp_path, FSDP2 | changes, processes=2)


def test_a_bare_no_of_yaml_is_no_contradiction(tmp_path: Path) -> None:
    assert read(tmp_path, {"distributed_type": False, "mixed_precision": False}) == {}


@pytest.mark.parametrize(("content", "said"), [("[1]", "no keys"), ("{", "cannot be read")])
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BadCase, match=said):
        configured(Knobs(engine="accelerate", accelerate=AccelerateKnobs(config=str(path))))
