"""Whatever a child process does, its case becomes a typed row and the others are measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.results.record import Outcome, Phase, Record
from tests.run.driver import Bench, Finished

pytestmark = [pytest.mark.torch, pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(400)]

FAULTS = """\
cases:
  - case: killed
    set: { model_kwargs: { fault: killed } }
  - case: memory limit
    set: { model_kwargs: { fault: memory limit } }
  - case: aborts
    set: { model_kwargs: { fault: aborts } }
  - case: segfaults
    set: { model_kwargs: { fault: segfaults } }
  - case: hangs in step
    set: { model_kwargs: { fault: hangs in step } }
  - case: raises in build
    set: { model_kwargs: { fault: raises in build } }
  - case: raises in step
    set: { model_kwargs: { fault: raises in step } }
  - case: chatters
    set: { model_kwargs: { fault: chatters } }
  - case: leaves
    set: { model_kwargs: { fault: leaves } }
  - case: nan
    set: { task: train, model_kwargs: { fault: nan } }
  - case: cannot checkpoint
    set: { task: train, activation_checkpointing: true }
  - case: refused
    set: { channels_last: true }
  - case: one of two ranks
    set: { processes: 2, model_kwargs: { fault: kills rank 1 } }
  - case: healthy
    set: {}
"""


class Sweep:
    """One run over every fault, and what it left."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.finished: Finished = bench.run(
            bench.scenario("faults", FAULTS), "--set", "measure.hang_s=3"
        )
        self.processes = bench.processes()
        self.records = {record.requested.case: record for record in bench.records()}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return Sweep(Bench(tmp_path_factory.mktemp("faults")))


def tail_of(record: Record) -> str:
    assert record.log_tail is not None
    return record.log_tail


@pytest.mark.parametrize(
    ("case", "outcome", "phases", "reason"),
    [
        ("killed", Outcome.CRASH, [Phase.BUILD], r"killed from outside .*\(SIGKILL\)"),
        ("memory limit", Outcome.OOM, [Phase.BUILD], r"can't allocate memory"),
        ("aborts", Outcome.CRASH, [Phase.BUILD], r"fault of its own \(SIGABRT\)"),
        ("segfaults", Outcome.CRASH, [Phase.WARM_UP, Phase.FIRST_STEP], r"\(SIGSEGV\)"),
        ("hangs in step", Outcome.HANG, [Phase.WARM_UP], r"rank 0 .* silent for \d+ s"),
        ("raises in build", Outcome.CRASH, [Phase.BUILD], r"ValueError: no weights in"),
        ("raises in step", Outcome.CRASH, [Phase.WARM_UP], r"ValueError: no weights in"),
        ("leaves", Outcome.CRASH, [Phase.BUILD], r"ended with exit code 0 and left no result"),
        ("nan", Outcome.NAN, [Phase.MEASURE], r"the loss is not finite: first nan, last nan"),
        ("cannot checkpoint", Outcome.UNSUPPORTED, [Phase.BUILD], r"activation_checkpointing=True"),
        ("refused", Outcome.UNSUPPORTED, [Phase.PLAN], r"channels_last=True: a toy has one memory"),
        ("one of two ranks", Outcome.CRASH, [Phase.WARM_UP], r"^rank 1: killed .*\(SIGKILL\)"),
    ],
)
def test_each_fault_is_a_row_with_its_outcome_phase_and_reason(
    sweep: Sweep, case: str, outcome: Outcome, phases: list[Phase], reason: str
) -> None:
    record = sweep.records[case]
    assert record.outcome is outcome, record.reason
    assert record.phase in phases
    assert re.search(reason, record.reason or ""), record.reason
    assert record.statistics is None
    row = sweep.finished.row(case)
    assert (row["outcome"], row["reason"]) == (outcome, record.reason)
    assert row["samples_per_s"] is None


def test_the_sweep_goes_on_to_the_healthy_case_and_exits_with_4(sweep: Sweep) -> None:
    assert sweep.finished.code == 4
    assert sweep.records["healthy"].outcome is Outcome.OK
    assert sweep.finished.row("healthy")["samples_per_s"] > 0
    assert len(sweep.records) == len(sweep.finished.rows) == 14


def test_megabytes_on_stdout_neither_block_nor_enter_the_table(sweep: Sweep) -> None:
    assert sweep.records["chatters"].outcome is Outcome.OK
    assert "xxxx" not in sweep.finished.stdout


def test_no_process_is_left(sweep: Sweep) -> None:
    assert sweep.processes == []


def test_no_half_written_or_temporary_file_is_left(sweep: Sweep) -> None:
    assert len(sweep.bench.files()) == 14
    assert all(re.fullmatch(r"runs/[\d/]+/[\dTZ]+-\w+\.json", f) for f in sweep.bench.files())
    assert list(sweep.bench.temporary.glob("bench-*")) == []


def test_the_log_of_a_hang_shows_the_line_that_sleeps(sweep: Sweep) -> None:
    tiny = (Path(__file__).parent / "plugins/tiny.py").read_text(encoding="utf-8").splitlines()
    (line,) = [n for n, text in enumerate(tiny, start=1) if "the line where it hangs" in text]
    assert re.search(rf'tiny\.py", line {line} in _sleep', tail_of(sweep.records["hangs in step"]))


@pytest.mark.parametrize("case", ["raises in build", "raises in step"])
def test_the_log_of_an_exception_is_its_traceback(sweep: Sweep, case: str) -> None:
    tail = tail_of(sweep.records[case])
    assert "Traceback (most recent call last)" in tail
    assert "in _raise" in tail


def test_a_loss_that_is_no_number_has_the_log_of_its_launch(sweep: Sweep) -> None:
    assert "a nan is coming" in tail_of(sweep.records["nan"])


def test_reasons_and_logs_name_no_folder_of_this_machine(sweep: Sweep) -> None:
    checkout = Path(__file__).parents[2]
    private = [sweep.bench.cwd, sweep.bench.home, checkout, Path.home(), sweep.bench.temporary]
    for file in sweep.bench.files():
        text = (sweep.bench.results / file).read_text(encoding="utf-8")
        assert [str(folder) for folder in private if f"{folder}/" in text] == []
    reason = sweep.records["raises in build"].reason
    assert reason == "ValueError: no weights in <cwd>/weights nor in <home>/weights"


def test_an_unsupported_case_tells_what_the_model_lacks(sweep: Sweep) -> None:
    reason = sweep.records["cannot checkpoint"].reason or ""
    assert "the model tiny:build has no method set_grad_checkpointing" in reason


def test_the_parent_never_loads_torch_and_stays_small(sweep: Sweep) -> None:
    libraries = sweep.finished.libraries
    if not libraries:
        pytest.skip("this system does not show what a process has loaded")
    assert any(name.startswith(("libc.", "libc-")) for name in libraries)
    assert [name for name in libraries if "torch" in name] == []
    assert sweep.finished.peak_rss_bytes < 150 * 2**20


def test_a_case_that_hangs_while_it_is_built_ends_at_its_timeout(bench: Bench) -> None:
    scenario = bench.scenario(
        "slow",
        """
        cases:
          - case: hangs
            set: { model_kwargs: { fault: hangs in build } }
          - case: healthy
            set: {}
        """,
    )
    finished = bench.run(scenario, "--timeout", "15")
    assert finished.code == 4
    row = finished.row("hangs")
    assert (row["outcome"], row["reason"]) == ("timeout", "the case's time was up after 15 s")
    record = bench.record("hangs")
    assert record.phase is Phase.BUILD
    assert "in _sleep" in tail_of(record)
    assert finished.row("healthy")["outcome"] == "ok"
    assert bench.processes() == []
