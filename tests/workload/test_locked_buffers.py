"""The buffers that DeepSpeed locks: counted, as their settings say."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from bench.workload.engines import locked_buffers

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
    ),
]

OFFLOAD = {"device": "nvme", "nvme_path": "drive"}
WEIGHTS = [torch.empty(3, 5), torch.empty(10)]
"""8 and 5 numbers on each of two ranks."""


@pytest.mark.parametrize(
    ("zero", "needed"),
    [
        ({"offload_param": OFFLOAD}, {"zero.offload_param": 5 * 10**8 * 4}),
        (
            {"offload_param": OFFLOAD | {"buffer_count": 6, "buffer_size": 1e6}},
            {"zero.offload_param": 24 * 10**6},
        ),
        ({"offload_optimizer": OFFLOAD}, {"zero.offload_optimizer": 4 * 13 * 4}),
        (
            {"offload_optimizer": OFFLOAD | {"buffer_count": 5}, "sub_group_size": 7},
            {"zero.offload_optimizer": 5 * 7 * 4},
        ),
        ({"offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "cpu"}}, {}),
    ],
)
def test_buffers_are_counted_by_deepspeeds_own_sizes(
    zero: dict[str, Any], needed: dict[str, int]
) -> None:
    assert locked_buffers.needed_bytes({"stage": 3, **zero}, WEIGHTS, 2) == needed
