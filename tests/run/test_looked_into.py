"""Whole runs whose first launch is looked into: what is recorded, on one rank and on two."""

from __future__ import annotations

import pytest

from bench.results.record import Inspection, Launch
from tests.run.driver import HEAD, Bench

pytestmark = [pytest.mark.torch, pytest.mark.slow]

LOOKED = HEAD.replace("diagnostics: false", "diagnostics: true").replace(
    "launches: 1", "launches: 2"
)


def launches(bench: Bench, *arguments: str) -> list[Launch]:
    assert LOOKED.count("diagnostics: true") == 1
    scenario = bench.scenario("looked-into", "", LOOKED)
    finished = bench.run(scenario, "--set", "task=train", *arguments)
    assert finished.code == 0, finished.stderr
    (record,) = bench.records()
    return record.launches


def inspection(launch: Launch) -> Inspection:
    assert launch.inspection is not None
    return launch.inspection


def test_only_the_first_launch_is_looked_into(bench: Bench) -> None:
    first, second = launches(bench)
    found = inspection(first)
    # One linear layer: a product forward, one backward for its weights.
    assert found.matmul_types == {"fp32": 2}
    assert found.matmul_format == "fp32"
    assert found.gradient_kept == 1.0
    assert first.flops_per_sample == 2 * 2 * 12 * 10
    assert (second.inspection, second.flops_per_sample) == (None, None)


def test_two_ranks_are_looked_into_alike(bench: Bench) -> None:
    first, _ = launches(bench, "--processes", "2")
    found = inspection(first)
    assert found.matmul_types == {"fp32": 2}
    assert found.batches_distinct == 1  # a pool of one, as asked
    assert found.gradient_kept == 1.0
    assert found.skipped == []
    results = {check.name: check.result for check in first.audit}
    for name in ("precision_ran", "batches_as_asked", "gradients_untouched"):
        assert results[name] == "pass"
