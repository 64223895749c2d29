"""Whole runs on real torch_xla: every setting that the backend honours gives an audited number."""

from __future__ import annotations

import importlib.util

import pytest

from bench.results.record import CheckResult, Outcome, Record
from tests.run.driver import Bench, Finished

pytestmark = [
    pytest.mark.xla,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("torch_xla") is None, reason="torch_xla is not installed"
    ),
]

NET = """\
import torch

def build():
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(768, 256), torch.nn.GELU(), torch.nn.Linear(256, 10)
    )
"""
HEAD = """\
schema: 1
name: {name}
model: net:build
image_size: 16
classes: 10
batch_size: 64
optimizer: sgd
data: {{ source: cached }}
measure: {{ launches: 1, budget_s: 1.0, windows: 4, warmup_s: 0.0, health: false }}
"""
CASES = """\
cases:
  - case: fp32
  - case: amp-bf16
    set: { precision: amp-bf16 }
  - case: bf16-env
    set: { precision: bf16-env }
  - case: four a graph
    set: { loader.batches_per_execution: 4, gradient_accumulation: 2 }
  - case: resident, three a graph
    set: { data.source: device, loader.batches_per_execution: 3 }
  - case: openxla
    set: { compile: openxla }
  - case: infer
    set: { task: infer, optimizer: null, loader.batches_per_execution: 2 }
  - case: two devices
    set: { engine: spmd }
  - case: two processes
    set: { processes: 2 }
  - case: inductor
    set: { compile: inductor }
"""
REFUSED = ("two processes", "inductor")


class Run:
    def __init__(self, bench: Bench) -> None:
        (bench.cwd / "net.py").write_text(NET, encoding="utf-8")
        self.finished: Finished = bench.run(bench.scenario("on-xla", CASES, HEAD), backend="xla")
        self.records: dict[str, Record] = {r.requested.case: r for r in bench.records()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(Bench(tmp_path_factory.mktemp("xla")))


def result(record: Record, name: str) -> CheckResult:
    (check,) = [check for check in record.launches[0].audit if check.name == name]
    return check.result


def test_refusals_do_not_fail_the_run(run: Run) -> None:
    assert run.finished.code == 0, run.finished.stderr
    for case in REFUSED:
        assert run.records[case].outcome is Outcome.UNSUPPORTED
        assert run.records[case].reason


def test_every_other_case_gives_a_number_and_what_ran_is_what_was_asked(run: Run) -> None:
    for case, record in run.records.items():
        if case in REFUSED:
            continue
        assert record.outcome is Outcome.OK, (case, record.reason)
        for check in ("as_asked", "batch_as_asked", "no_fallbacks", "no_compile_in_window"):
            assert result(record, check) is not CheckResult.FAIL, (case, record.verdict_reason)


@pytest.mark.parametrize(
    ("case", "micro_batches_per_graph"),
    [
        ("fp32", 1),
        ("four a graph", 4),
        ("resident, three a graph", 3),
        ("infer", 2),
        ("two devices", 1),
    ],
)
def test_graphs_are_executed_as_often_as_the_settings_imply(
    run: Run, case: str, micro_batches_per_graph: int
) -> None:
    record = run.records[case]
    launch = record.launches[0]
    windows = len(launch.window_s[0])

    assert result(record, "executions_counted") is CheckResult.PASS
    expected = windows * launch.micro_batches_per_window / micro_batches_per_graph
    assert launch.executions == expected


def test_all_devices_that_share_a_batch_are_counted_and_the_row_says_what_they_are(
    run: Run,
) -> None:
    launch = run.records["two devices"].launches[0]
    assert launch.samples_per_window == launch.micro_batches_per_window * 2 * 64
    assert launch.actual["global_batch"] == 128
    assert result(run.records["two devices"], "collectives_real") is CheckResult.PASS
    assert result(run.records["two devices"], "ranks_agree") is CheckResult.PASS
    row = run.finished.row("two devices")
    assert (row["processes"], row["devices"]) == (1, 2)
    assert "2 virtual devices share the cores of one CPU" in row["audit_remarks"]
    assert "audit_remarks" not in run.finished.row("fp32") or "virtual" not in str(
        run.finished.row("fp32")["audit_remarks"]
    )


def test_the_type_behind_the_environment_variable_is_proven(run: Run) -> None:
    assert run.records["bf16-env"].launches[0].actual["precision"] == "bf16-env"
    assert run.records["fp32"].launches[0].actual["precision"] == "fp32"


def test_compilation_is_counted_and_memory_is_that_of_the_host(run: Run) -> None:
    launch = run.records["fp32"].launches[0]

    assert launch.compilation.count is not None
    assert launch.compilation.count >= 1
    assert launch.compilation.seconds is not None
    assert launch.compilation.seconds > 0
    assert launch.host_peak_rss_bytes is not None
    assert launch.peak_memory_bytes is not None
    # The host is the device; the two are read one after the other.
    assert launch.peak_memory_bytes == pytest.approx(launch.host_peak_rss_bytes, rel=0.05)
