"""Whole runs on a device that notes its graphs for a compiler, with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.results.record import Outcome, Phase, Record
from tests.run.driver import Bench, Finished

pytestmark = [pytest.mark.torch, pytest.mark.slow]

CASES = """\
cases:
  - case: good
    set: { model_kwargs: { device: notes graphs } }
  - case: bad
    set: { model_kwargs: { device: notes a bad graph } }
  - case: wrong
    set: { model_kwargs: { device: notes graphs, fault: raises in build } }
"""


class Run:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.finished: Finished = bench.run(bench.scenario("noted", CASES), "--precompile")
        self.records: dict[str, Record] = {r.requested.case: r for r in bench.records()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(Bench(tmp_path_factory.mktemp("noted")))


def test_what_was_noted_is_compiled_and_every_launch_is_warm(run: Run) -> None:
    record = run.records["good"]
    assert record.outcome is Outcome.OK, record.reason
    assert record.precompiled is not None
    assert record.precompiled.compiles == 1
    assert [launch.compilation.cache for launch in record.launches] == ["warm"]


def test_a_graph_that_cannot_be_compiled_is_a_row_with_the_compilers_last_lines(run: Run) -> None:
    record = run.records["bad"]
    assert (record.outcome, record.phase) == (Outcome.COMPILE_FAILED, Phase.FIRST_STEP)
    assert record.reason == "1 of 1 graphs cannot be compiled by toycc"
    assert "toycc: giving up" in (record.log_tail or "")
    assert record.launches == []
    row = run.finished.row("bad")
    assert (row["outcome"], row["samples_per_s"]) == ("compile_failed", None)


def test_what_is_not_the_compilers_is_found_out_by_a_launch(run: Run) -> None:
    record = run.records["wrong"]
    assert record.outcome is Outcome.CRASH
    assert "no weights in" in (record.reason or "")
    assert "noted / wrong on toy: not precompiled: crash in build" in run.finished.stderr
    assert "noted / wrong on toy: launch 1 of 1" in run.finished.stderr


def test_the_others_are_measured_and_nothing_is_left(run: Run) -> None:
    assert run.finished.code == 4
    assert run.bench.processes() == []
    assert list(Path(run.bench.temporary).glob("bench-*")) == []


def test_without_the_option_the_first_launch_is_cold(bench: Bench) -> None:
    done = bench.run(bench.scenario("noted", CASES), "--case", "good")
    assert done.code == 0, done.stderr
    (record,) = bench.records()
    assert [launch.compilation.cache for launch in record.launches] == ["cold"]
    assert record.precompiled is None
