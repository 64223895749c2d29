"""Lies that only a device with graphs and a queue can tell, on real torch_xla on the CPU."""

from __future__ import annotations

import pytest

from bench.results.statistics import launch_value
from tests.backends.xla_child import INSTALLED
from tests.lies import xla_runs
from tests.lies.real_runs import caught, words

pytestmark = [
    pytest.mark.xla,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not INSTALLED, reason="torch_xla is not installed"),
]

FOUR = {"loader": {"batches_per_execution": 4}}


@pytest.fixture(scope="module")
def honest() -> float:
    launch = xla_runs.launched("nothing", **FOUR)
    assert caught(launch) == set()
    return launch_value(launch)


def test_a_fence_that_does_not_wait_is_caught_by_fence_waits(honest: float) -> None:
    launch = xla_runs.launched("fence_that_does_not_wait", **FOUR)
    failed = {check.name for check in launch.audit if check.result == "fail"}
    assert "fence_waits" in failed
    assert words(launch, "fence_waits").startswith("median residual")
    # Three windows are not enough to fill the queue, so the dispatch is faster than the work.
    assert launch_value(launch) > 1.1 * honest


def test_an_autocast_that_does_nothing_is_caught_by_precision_ran() -> None:
    launch = xla_runs.launched("autocast_of_another_device", precision="amp-bf16")
    assert "precision_ran" in caught(launch)


def test_one_batch_sent_once_is_caught_by_batches_as_asked() -> None:
    assert "batches_as_asked" in caught(xla_runs.launched("one_batch_again_and_again"))


def test_an_operator_on_the_host_is_caught_by_no_fallbacks() -> None:
    launch = xla_runs.launched("operator_on_the_host")
    assert "no_fallbacks" in caught(launch)
    assert "aten::" in words(launch, "no_fallbacks")
