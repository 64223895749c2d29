"""The clock of most scripts on real torch_xla, which works behind the host, and its counters."""

from __future__ import annotations

import statistics

import pytest

from bench.scenarios.schema import Knobs
from tests.backends import xla_child

pytestmark = [
    pytest.mark.alone,
    pytest.mark.xla,
    pytest.mark.slow,
    pytest.mark.skipif(not xla_child.INSTALLED, reason="torch_xla is not installed"),
]

WIDE = {
    "model": "tests.backends.xla_clock:wide",
    "image_size": 16,
    "classes": 10,
    "batch_size": 256,
    "optimizer": "sgd",
    "threads": 1,
    "data": {"source": "device"},
    "loader": {"batches_per_execution": 4},
}
"""About 20 ms a step on the device, and 2 ms to write its graph down."""


def test_with_several_steps_a_graph_the_naive_clock_reads_more_than_the_truth() -> None:
    found = xla_child.run("xla_clock.naive", Knobs.model_validate(WIDE))
    assert found["compiles"] == 0
    true_s = statistics.median(found["fenced_s"])
    naive_s = statistics.median(found["naive_s"])
    # The last graph of the block is not even sent off when the naive clock stops.
    assert naive_s < 0.95 * true_s
    # Three steps of four only write the graph down: the median step is far below the mean.
    assert statistics.median(found["naive_median_s"]) < 0.5 * true_s / found["steps"]


def test_what_the_runtime_does_not_count_is_unknown_and_a_peak_is_one_since_the_reset() -> None:
    found = xla_child.run("xla_clock.told")
    # A process that holds torch_xla is no smaller; the host is the device here.
    assert found["memory_bytes"] > 2**27
    assert found["host_peak_bytes"] >= found["memory_bytes"] / 2
    joules, reason = found["energy"]
    assert (joules is None) != (reason is None)
    assert found["peak_before_a_reset"] is None
    assert found["peak_that_did_not_rise"] is None
    assert found["peak_that_rose"] == 600
    assert found["memory_counted"] == 100
