"""A TPU of several chips without one: the environment with which each rank would open its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.backends import xla_child

pytestmark = [
    pytest.mark.xla,
    pytest.mark.skipif(not xla_child.INSTALLED, reason="torch_xla is not installed"),
]

V4_8 = {
    "PJRT_DEVICE": "TPU",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_HOST_BOUNDS": "1,1,1",
    "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
    "TPU_WORKER_ID": "0",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""One machine with four chips, as its containers are told."""
V4_16 = V4_8 | {
    "TPU_ACCELERATOR_TYPE": "v4-16",
    "TPU_HOST_BOUNDS": "1,1,2",
    "TPU_WORKER_ID": "1",
    "TPU_WORKER_HOSTNAMES": "first,second",
}
"""The second of two such machines."""


def opened(
    machine: dict[str, str], rank: int, size: int, nodes: int = 1, found: int | None = None
) -> dict[str, Any]:
    numbers = (rank, size, nodes, size if found is None else found)
    child = subprocess.run(
        [sys.executable, "-m", "tests.backends.xla_tpu", *map(str, numbers)],
        cwd=xla_child.ROOT,
        env=os.environ | machine,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    figures: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return figures


def test_each_rank_has_a_chip_of_its_own_in_a_slice_of_all() -> None:
    chip = opened(V4_8, rank=2, size=4)
    assert {
        "TPU_VISIBLE_CHIPS": "2",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "2,2,1",
        "CLOUD_TPU_TASK_ID": "2",
        "TPU_PROCESS_PORT": "8478",
        "TPU_PROCESS_ADDRESSES": ",".join(f"localhost:{port}" for port in range(8476, 8480)),
        "PJRT_LOCAL_PROCESS_RANK": "2",
        "PJRT_LOCAL_PROCESS_COUNT": "4",
    }.items() <= chip.items()
    assert chip["replicated"] is True
    assert (chip["group"], chip["ddp"]) == ("xla", {"gradient_as_bucket_view": True})


def test_over_two_machines_the_slice_is_that_of_both() -> None:
    chip = opened(V4_16, rank=5, size=8, nodes=2)
    assert chip["TPU_VISIBLE_CHIPS"] == chip["PJRT_LOCAL_PROCESS_RANK"] == "1"
    assert (chip["TPU_PROCESS_BOUNDS"], chip["CLOUD_TPU_TASK_ID"]) == ("2,2,2", "5")
    first, second = (chip["TPU_PROCESS_ADDRESSES"].count(name) for name in ("first:", "second:"))
    assert (first, second) == (4, 4)


def test_chips_that_form_another_world_are_refused_before_anything_runs() -> None:
    assert opened(V4_8, rank=0, size=4, found=8)["refused"] == (
        "processes=4: torch_xla finds 8 devices in all processes, and each must have one"
    )
