"""Weights and optimizer state that are said to be in files, and are in memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.backends import async_io, zero_config
from tests.lies.real_runs import caught, launched, words
from tests.lies.test_engine_lies import _forget_deepspeeds_groups, _nothing_is_left

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(900)]
__all__ = ["_nothing_is_left"]

WIDE: dict[str, Any] = {
    "model_kwargs": {
        "patch_size": 8,
        "embed_dim": 256,
        "depth": 3,
        "num_heads": 2,
        "mlp_ratio": 8,
    }
}
"""A ViT with six weights of 2 MiB: DeepSpeed has buffers for five, in float32."""
ASKED = {"stage": 3, "offload_optimizer": "nvme", "offload_param": "nvme"}


@pytest.fixture(autouse=True)
def _can_be_built() -> Iterator[None]:
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    if lacks := async_io.missing("cpu") or async_io.lacks_libaio("cpu"):
        pytest.skip(lacks)
    yield
    _forget_deepspeeds_groups()


def planted(monkeypatch: pytest.MonkeyPatch, **changes: dict[str, Any]) -> None:
    """Have DeepSpeed read another configuration than the case's, section by section."""
    honest = zero_config.configuration

    def changed(*arguments: Any, **options: Any) -> dict[str, Any]:
        found = honest(*arguments, **options)
        zero = found["zero_optimization"]
        # Page-locked: 2 GB of them, at DeepSpeed's own size.
        zero["offload_param"]["buffer_size"] = 10**6
        for section, values in changes.items():
            zero[section] |= values
        return found

    monkeypatch.setattr(zero_config, "configuration", changed)


def test_what_is_in_files_is_not_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch)
    assert caught(launched(tmp_path, engine="deepspeed", zero=ASKED, **WIDE)) == set()


def test_weights_that_deepspeed_leaves_in_memory_are_caught_by_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does by itself with the first 1e9 of a rank."""
    planted(monkeypatch, offload_param={"max_in_cpu": 10**9})
    launch = launched(tmp_path, engine="deepspeed", zero=ASKED, **WIDE)
    assert caught(launch) == {"as_asked"}
    assert words(launch, "as_asked") == "zero.offload_param: asked nvme, ran None"


def test_state_that_deepspeed_leaves_in_memory_is_caught_by_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(monkeypatch, offload_optimizer={"device": "cpu"})
    launch = launched(tmp_path, engine="deepspeed", zero=ASKED, **WIDE)
    assert caught(launch) == {"as_asked"}
    assert words(launch, "as_asked") == "zero.offload_optimizer: asked nvme, ran cpu"
