"""Engines that are silently others than those that were asked for, and settings that do nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.fsdp import OffloadPolicy

from bench.backends import async_io, locked_memory, zero_config
from bench.backends.base import Unsupported, World
from bench.results.health import HealthRun, judge
from bench.worker import health
from bench.worker.events import Events
from bench.workload import engines
from bench.workload.engines import DdpEngine, fsdp
from bench.workload.engines.fsdp import FsdpEngine
from tests.lies.real_runs import caught, launched, words
from tests.worker.a_job import a_case, a_job

pytestmark = pytest.mark.torch

needs_accelerate = pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed"
)
NO_DEEPSPEED = importlib.util.find_spec("deepspeed") is None
needs_deepspeed = pytest.mark.skipif(NO_DEEPSPEED, reason="deepspeed is not installed")


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each test be the first launch of its process, as a launch of ours is."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}.get(name, "0"))
    # Set first, so that what a launch sets is taken away, too.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.delenv("DS_ACCELERATOR")
    if Path("/sys/class/net/lo").exists():
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    _forget_deepspeeds_groups()
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


def _forget_deepspeeds_groups() -> None:
    if "deepspeed" not in sys.modules:
        return
    from deepspeed.comm import comm
    from deepspeed.runtime import torch_autocast
    from deepspeed.utils import groups

    comm.cdb = None
    torch_autocast.TORCH_AUTOCAST_INITIALIZED = False
    for name in vars(groups):
        if name.startswith("_") and name.isupper() and "GROUP" in name:
            kept = getattr(groups, name)
            setattr(groups, name, {} if isinstance(kept, dict) else None)


def test_an_honest_fsdp_is_not_caught(tmp_path: Path) -> None:
    assert caught(launched(tmp_path, engine="fsdp", fsdp={"offload": "cpu"})) == set()


SETTINGS: list[dict[str, Any]] = [
    {"precision": "amp-bf16", "gradient_accumulation": 2},
    {"activation_checkpointing": True, "optimizer_impl": "fused"},
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
]
ENGINES: list[Any] = [
    {"engine": "fsdp"},
    pytest.param({"engine": "accelerate"}, marks=needs_accelerate),
    pytest.param({"engine": "deepspeed", "zero": {"stage": 2}}, marks=needs_deepspeed),
    pytest.param(
        {
            "engine": "deepspeed",
            "zero": {"stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
        },
        marks=needs_deepspeed,
    ),
]


@pytest.mark.parametrize(
    "engine",
    [
        {"engine": "fsdp"},
        {"engine": "fsdp", "fsdp": {"reshard_after_forward": False, "offload": "cpu"}},
        pytest.param({"engine": "accelerate"}, marks=needs_accelerate),
    ],
    ids=str,
)
def test_an_engine_that_infers_is_honest(tmp_path: Path, engine: dict[str, Any]) -> None:
    launch = launched(tmp_path, **engine, task="infer")
    assert caught(launch) == set()
    assert launch.actual["engine"] == engine["engine"]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_an_engine_with_other_settings_is_honest(
    tmp_path: Path, engine: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert caught(launched(tmp_path, **engine, **settings)) == set()


def test_fsdp_that_is_ddp_is_caught_by_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As accelerate makes of it on a CPU."""
    monkeypatch.setattr(engines, "make", lambda *_: DdpEngine())
    launch = launched(tmp_path, engine="fsdp")
    assert caught(launch) == {"as_asked"}
    assert "engine: asked fsdp, ran ddp" in words(launch, "as_asked")


def test_fsdp_that_shards_nothing_is_caught_by_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsdp, "fully_shard", lambda module, **_: module)
    launch = launched(tmp_path, engine="fsdp", diagnose=False)
    assert caught(launch) == {"as_asked"}
    assert "engine: asked fsdp, ran plain" in words(launch, "as_asked")


def test_an_offload_of_fsdp_that_is_ignored_is_caught_by_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FsdpEngine, "_offload_policy", lambda _: OffloadPolicy())
    launch = launched(tmp_path, engine="fsdp", fsdp={"offload": "cpu"})
    assert caught(launch) == {"as_asked"}
    assert words(launch, "as_asked") == "fsdp.offload: asked cpu, ran none"


def test_blocks_that_are_not_let_go_after_the_forward_pass_are_caught_by_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = fsdp.fully_shard
    monkeypatch.setattr(
        fsdp,
        "fully_shard",
        lambda module, **options: shard(module, **{**options, "reshard_after_forward": False}),
    )
    launch = launched(tmp_path, engine="fsdp", fsdp={"reshard_after_forward": True})
    assert caught(launch) == {"as_asked"}
    text = words(launch, "as_asked")
    assert text == "fsdp.reshard_after_forward: asked True, ran False"


COMPILED: dict[str, Any] = {"compile": "inductor", "precision": "amp-bf16"}


@needs_accelerate
@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "amp-bf16"},
        COMPILED | {"gradient_accumulation": 2},
        COMPILED | {"task": "infer"},
    ],
    ids=str,
)
def test_an_honest_accelerate_is_not_caught(tmp_path: Path, settings: dict[str, Any]) -> None:
    launch = launched(tmp_path, engine="accelerate", **settings)
    assert caught(launch) == set()
    assert launch.actual["accelerate.wrapper"] == "ddp"
    assert launch.actual["compile"] == settings.get("compile", "none")
    assert launch.actual["accelerate.autocast"] == "bfloat16"


@needs_accelerate
def test_one_process_alone_is_not_wrapped_where_a_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "accelerate.yaml"
    path.write_text("distributed_type: NO\nmachine_rank: 0\n", encoding="utf-8")
    launch = launched(tmp_path, engine="accelerate", accelerate={"config": str(path)})
    assert caught(launch) == set()
    assert launch.actual["accelerate.wrapper"] == "none"
    assert launch.actual["accelerate_config"] == {"distributed_type": "NO"}


@needs_accelerate
def test_an_autocast_that_accelerate_leaves_out_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does on a CPU with fp16, without a word."""
    _accelerated_otherwise(monkeypatch, mixed_precision="no")
    launch = launched(tmp_path, engine="accelerate", precision="amp-bf16")
    assert caught(launch) == {"as_asked"}
    assert words(launch, "as_asked") == "accelerate.autocast: asked bfloat16, ran none"


@needs_accelerate
def test_an_autocast_that_nobody_asked_for_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _accelerated_otherwise(monkeypatch, mixed_precision="bf16")
    launch = launched(tmp_path, engine="accelerate")
    assert "as_asked" in caught(launch)
    assert "accelerate.autocast: asked none, ran bfloat16" in words(launch, "as_asked")


@needs_accelerate
def test_a_model_that_accelerate_does_not_wrap_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import accelerate

    honest = accelerate.Accelerator.prepare_model
    monkeypatch.setattr(
        accelerate.Accelerator,
        "prepare_model",
        lambda self, model, **_: honest(self, model, evaluation_mode=True),
    )
    launch = launched(tmp_path, engine="accelerate")
    assert caught(launch) == {"as_asked"}
    assert words(launch, "as_asked") == "accelerate.wrapper: asked ddp, ran none"


def _accelerated_otherwise(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Have the Accelerator built by other arguments than those that it is given."""
    import accelerate

    honest = accelerate.Accelerator
    monkeypatch.setattr(accelerate, "Accelerator", lambda **options: honest(**(options | changes)))


@needs_deepspeed
@pytest.mark.parametrize(
    ("stage", "settings"),
    [(0, {}), (0, SETTINGS[0]), (1, {}), (1, SETTINGS[0]), (2, {}), (3, {})],
    ids=str,
)
def test_an_honest_deepspeed_is_not_caught(
    tmp_path: Path, stage: int, settings: dict[str, Any]
) -> None:
    launch = launched(tmp_path, engine="deepspeed", zero={"stage": stage}, **settings)
    assert caught(launch) == set()


@needs_deepspeed
@pytest.mark.parametrize(
    ("asked", "change", "told"),
    [
        ({"stage": 3}, {"stage": 2}, "zero.stage: asked 3, ran 2"),
        ({"stage": 1}, {"stage": 0}, "zero.stage: asked 1, ran 0"),
        (
            {"stage": 2, "offload_optimizer": "cpu"},
            {"stage": 2},
            "zero.offload_optimizer: asked cpu, ran none",
        ),
        (
            {"stage": 3, "offload_param": "cpu"},
            {"stage": 3},
            "zero.offload_param: asked cpu, ran none",
        ),
        # What DeepSpeed itself takes and does nothing about.
        (
            {"stage": 3, "offload_param": "cpu"},
            {"stage": 2, "offload_param": {"device": "cpu"}},
            "zero.offload_param: asked cpu, ran none",
        ),
        (
            {"stage": 1, "offload_optimizer": "cpu"},
            {"stage": 0, "offload_optimizer": {"device": "cpu"}},
            "zero.offload_optimizer: asked cpu, ran none",
        ),
    ],
)
def test_zero_that_is_another_is_caught_by_as_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    change: dict[str, Any],
    told: str,
) -> None:
    _configured(monkeypatch, zero_optimization=change)
    launch = launched(tmp_path, engine="deepspeed", zero=asked)
    assert caught(launch) == {"as_asked"}
    assert told in words(launch, "as_asked")


@needs_deepspeed
def test_gradients_that_deepspeed_clips_unasked_are_caught_by_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does by itself where its configuration says nothing of it."""
    _configured(monkeypatch, gradient_clipping=None)
    launch = launched(tmp_path, engine="deepspeed", zero={"stage": 1})
    assert caught(launch) == {"as_asked"}
    assert words(launch, "as_asked") == "gradient_clipping: asked 0.0, ran 1.0"


@needs_deepspeed
def test_a_limit_on_locked_memory_makes_files_unsupported_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed would abort the process."""
    monkeypatch.setattr(async_io, "load", lambda _: "it was to be built")
    monkeypatch.setattr(locked_memory, "limit_below", lambda size: 2**23 if size > 2**23 else None)
    said = r"^zero.offload_param=nvme: DeepSpeed locks 1907 MiB .* 8 MiB \(ulimit -l\): raise that"
    with pytest.raises(Unsupported, match=said):
        launched(tmp_path, engine="deepspeed", zero={"stage": 3, "offload_param": "nvme"})


SUMMED = ("gradient_allreduce_op", "sum", "gradient_average: asked True, ran False")
ROUNDED = (
    "communication_data_type",
    "bf16",
    "communication_data_type: asked float32, ran bfloat16",
)


@needs_deepspeed
@pytest.mark.parametrize(
    ("stage", "key", "value", "told"),
    [
        (0, *SUMMED),
        (2, *SUMMED),
        (0, *ROUNDED),
        (2, *ROUNDED),
        (3, *ROUNDED),
    ],
)
def test_gradients_that_deepspeed_exchanges_otherwise_are_caught_by_as_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: int,
    key: str,
    value: str,
    told: str,
) -> None:
    """AdamW hides a sum in place of a mean from the loss."""
    _configured(monkeypatch, **{key: value})
    launch = launched(tmp_path, engine="deepspeed", zero={"stage": stage}, diagnose=False)
    assert caught(launch) == {"as_asked"}
    assert words(launch, "as_asked") == told


@needs_deepspeed
def test_gradients_that_zero_scales_unseen_are_told_by_the_health_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows them to nobody but the optimizer, and AdamW learns as well from larger ones."""
    from bench.workload.engines.deepspeed import DeepspeedEngine

    backward = DeepspeedEngine.backward
    monkeypatch.setattr(DeepspeedEngine, "backward", lambda self, loss: backward(self, 2.0 * loss))
    zero, plain = (
        examined(tmp_path / name, **settings)
        for name, settings in {
            "zero": {"engine": "deepspeed", "zero": {"stage": 2}},
            "plain": {},
        }.items()
    )
    found = judge(zero, plain, 10)
    assert found.learns is True
    assert zero.gradient_norm == pytest.approx(2.0 * (plain.gradient_norm or 0.0), rel=1e-3)
    assert "something scales or clips gradients" in (found.reason or "")


def examined(folder: Path, **knobs: Any) -> HealthRun:
    """Run the health pass of a case in this process."""
    folder.mkdir()
    case = a_case({"data": {"source": "device", "pool": 1}, **knobs}, {"health_steps": 5})
    job = a_job(folder, case).model_copy(update={"purpose": "health"})
    found = health.run(job, World(), Events(0))
    assert found is not None
    return found


@needs_deepspeed
def test_an_autocast_that_deepspeed_leaves_out_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _configured(monkeypatch, torch_autocast=None)
    launch = launched(tmp_path, engine="deepspeed", precision="amp-bf16")
    assert "as_asked" in caught(launch)
    assert "deepspeed_autocast: asked bfloat16, ran none" in words(launch, "as_asked")


@needs_deepspeed
def test_an_honest_autocast_is_not_caught(tmp_path: Path) -> None:
    assert caught(launched(tmp_path, engine="deepspeed", precision="amp-bf16")) == set()


def _configured(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Have DeepSpeed read another configuration than the case's; null takes a key away."""
    honest = zero_config.configuration

    def changed(*arguments: Any, **options: Any) -> dict[str, Any]:
        merged = honest(*arguments, **options) | changes
        return {key: value for key, value in merged.items() if value is not None}

    monkeypatch.setattr(zero_config, "configuration", changed)
