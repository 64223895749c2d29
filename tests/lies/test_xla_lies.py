"""Lies that only a device with graphs and a queue can tell, on real torch_xla on the CPU."""

from __future__ import annotations

import pytest

from bench.results.record import CheckResult
from tests.backends.xla_child import INSTALLED
from tests.lies import xla_runs
from tests.lies.real_runs import caught, first_passing, words

pytestmark = [
    pytest.mark.alone,
    pytest.mark.xla,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not INSTALLED, reason="torch_xla is not installed"),
]

DEVICE_BOUND = {
    "model": "tests.lies.xla_plants:wide_mlp",
    "model_kwargs": {},
    "batch_size": 64,
    "optimizer": "sgd",
    "loader": {"batches_per_execution": 4},
}
"""The device takes longer for a graph than the host for the next, so its queue is never empty."""


def test_the_control_is_a_launch_that_nothing_catches() -> None:
    launch = first_passing("fence_waits", lambda: xla_runs.launched("nothing", **DEVICE_BOUND))
    assert caught(launch) == set()


def test_a_fence_that_does_not_wait_is_caught_by_fence_waits() -> None:
    launch = xla_runs.launched("fence_that_does_not_wait", **DEVICE_BOUND)
    [fence] = [check for check in launch.audit if check.name == "fence_waits"]
    assert fence.result is CheckResult.FAIL, fence.evidence


def test_an_autocast_that_does_nothing_is_caught_by_precision_ran() -> None:
    launch = xla_runs.launched("autocast_of_another_device", precision="amp-bf16")
    assert "precision_ran" in caught(launch)


def test_one_batch_sent_once_is_caught_by_batches_as_asked() -> None:
    assert "batches_as_asked" in caught(xla_runs.launched("one_batch_again_and_again"))


@pytest.mark.parametrize("compiler", ["none", "openxla"])
def test_an_operator_on_the_host_is_caught_by_no_fallbacks(compiler: str) -> None:
    launch = xla_runs.launched("operator_on_the_host", compile=compiler)
    assert "no_fallbacks" in caught(launch)
    assert "aten::" in words(launch, "no_fallbacks")


def test_a_compiled_launch_without_an_operator_on_the_host_passes_no_fallbacks() -> None:
    launch = xla_runs.launched("nothing", compile="openxla")
    [check] = [check for check in launch.audit if check.name == "no_fallbacks"]
    assert check.result is CheckResult.PASS, check.evidence
