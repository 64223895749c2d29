"""A device or library that lies is caught: its row is suspect, for the right reason."""

from __future__ import annotations

import pytest

from bench.results.record import CheckResult, Outcome, Record, Verdict, Weight
from tests.run.driver import Bench, Finished

pytestmark = [pytest.mark.torch, pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(400)]

LIES = """\
cases:
  - case: fence does not wait
    set: { model_kwargs: { device: fence does not wait } }
  - case: goes on compiling
    set: { model_kwargs: { device: goes on compiling } }
  - case: halves the batch
    set: { model_kwargs: { device: halves the batch } }
  - case: never updates
    set: { task: train, model_kwargs: { device: never updates } }
  - case: keeps fp32
    set: { precision: bf16, model_kwargs: { device: keeps fp32 } }
  - case: honest
    set: { task: train }
"""


class Run:
    """One run over every lie, and what it left."""

    def __init__(self, bench: Bench) -> None:
        self.finished: Finished = bench.run(bench.scenario("lies", LIES))
        self.records = {record.requested.case: record for record in bench.records()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(Bench(tmp_path_factory.mktemp("lies")))


def failed(record: Record) -> dict[str, str]:
    """Return the evidence of the checks that failed, but for what a busy machine may cause."""
    return {
        check.name: check.evidence
        for launch in record.launches
        for check in launch.audit
        if check.result is CheckResult.FAIL
        and check.weight is not Weight.NOISY
        and check.name != "steady_state"
    }


@pytest.mark.parametrize(
    ("lie", "checks"),
    [
        ("fence does not wait", {"fence_waits"}),
        ("goes on compiling", {"no_compile_in_window"}),
        ("halves the batch", {"batch_as_asked", "as_asked"}),
        ("never updates", {"parameters_moved", "updates_counted", "as_asked"}),
        ("keeps fp32", {"as_asked"}),
    ],
)
def test_each_lie_fails_the_check_that_is_there_for_it_and_no_other(
    run: Run, lie: str, checks: set[str]
) -> None:
    record = run.records[lie]
    assert record.outcome is Outcome.OK
    assert record.verdict is Verdict.SUSPECT
    found = failed(record)
    assert set(found) == checks
    for name, evidence in found.items():
        assert f"{name}: {evidence}" in (record.verdict_reason or "")


def test_the_evidence_tells_what_was_asked_and_what_ran(run: Run) -> None:
    assert failed(run.records["keeps fp32"])["as_asked"] == "precision: asked bf16, ran fp32"
    halved = failed(run.records["halves the batch"])
    assert halved["batch_as_asked"].startswith("batch sizes seen: 2; asked 4;")
    assert failed(run.records["never updates"])["parameters_moved"].startswith("0% of")


def test_a_suspect_row_has_no_speed_up_and_is_no_reference(run: Run) -> None:
    for case in run.records:
        row = run.finished.row(case)
        assert row["speedup"] is None or case == "honest"
        if case != "honest":
            assert row["verdict"] == "suspect"
            assert row["audit"].startswith("fail: ")


def test_an_honest_device_passes(run: Run) -> None:
    assert failed(run.records["honest"]) == {}
    assert run.finished.code == 0
