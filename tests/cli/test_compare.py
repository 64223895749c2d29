"""`bench compare` and `bench ab` from the command line: what they print, refuse, and exit with."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bench.results.record import Outcome, Record
from bench.results.store import Store
from tests.builders import MORNING, a_case, a_record, launches_of
from tests.cli.test_bad_input import refuses
from tests.run.driver import Bench, Finished

TOY = ("--backend", "toy")


def measured(
    id: str,  # noqa: A002
    *samples_per_s: float,
    case: str = "default",
    session: str | None = None,
    **knobs: object,
) -> Record:
    """Return a record with this id; one session of its own unless it is named."""
    name = session or f"session-{id}"
    return a_record(
        a_case(case, knobs=knobs),
        launches=launches_of(*samples_per_s, session=name),
        session=name,
        id=id,
    )


def keep(bench: Bench, folder: str, *records: Record) -> None:
    store = Store(bench.cwd / folder)
    for record in records:
        store.append(record)


def compared(bench: Bench, a: str, b: str, *options: str) -> Finished:
    finished = bench("compare", a, b, *options)
    assert "Traceback" not in finished.stderr
    return finished


class TestTwoRecords:
    def test_one_after_the_other_is_labelled_and_confirms_nothing(self, bench: Bench) -> None:
        keep(bench, "results", measured("aaa", 100, 101, 99), measured("bbb", 80, 81, 79))
        finished = compared(bench, "aaa", "bbb")
        assert finished.code == 3
        assert "sequential: cannot confirm a regression" in finished.stdout
        assert re.search(r"B looks slower: 0\.80x \[0\.7\d, 0\.8\d\]", finished.stdout)
        assert "`bench ab` tells the two apart" in finished.stdout

    @pytest.mark.parametrize(
        ("values", "code", "verdict"),
        [
            ((100.2, 100.4, 100.0), 0, "looks the same"),
            ((100.2, 130.9, 75.3), 3, "cannot tell"),
            ((120.0, 121.0, 119.0), 0, "looks faster"),
            ((80.0,), 3, "no interval"),
        ],
    )
    def test_the_exit_code_follows_from_what_was_found(
        self, bench: Bench, values: tuple[float, ...], code: int, verdict: str
    ) -> None:
        keep(bench, "results", measured("aaa", 100, 100.1, 99.9), measured("bbb", *values))
        finished = compared(bench, "aaa", "bbb", "--format", "json")
        (row,) = finished.rows
        assert (finished.code, row["verdict"], row["design"]) == (code, verdict, "sequential")

    def test_those_that_took_turns_are_paired_and_can_be_slower(self, bench: Bench) -> None:
        a = measured("aaa", 100, 50, 25, 12, session="one")
        b = measured("bbb", 95, 47, 24, 11.4, session="one", case="other")
        keep(bench, "results", a, b)
        finished = compared(bench, "aaa", "bbb")
        assert finished.code == 1
        assert "B is SLOWER: 0.950x" in finished.stdout
        assert "sequential" not in finished.stdout
        assert "B / A by pair: 0.950 0.940 0.960 0.950" in finished.stdout

    def test_the_threshold_is_the_users(self, bench: Bench) -> None:
        a = measured("aaa", 100, 50, 25, 12, session="one")
        b = measured("bbb", 95, 47, 24, 11.4, session="one", case="other")
        keep(bench, "results", a, b)
        finished = compared(bench, "aaa", "bbb", "--threshold", "10", "--format", "json")
        (row,) = finished.rows
        assert (finished.code, row["verdict"], row["threshold_pct"]) == (0, "SAME", 10.0)

    def test_a_record_may_be_named_by_its_path(self, bench: Bench) -> None:
        for name in ("a", "b"):
            keep(bench, name, measured(name * 3, 100, 100.1, 99.9))
        paths = [str(next((bench.cwd / name).rglob("*.json"))) for name in ("a", "b")]
        assert compared(bench, *paths).code == 0

    def test_other_work_is_refused_with_the_field(self, bench: Bench) -> None:
        keep(bench, "results", measured("aaa", 1, 2, classes=10), measured("bbb", 1, 2, classes=9))
        finished = compared(bench, "aaa", "bbb")
        assert (finished.code, finished.stdout) == (2, "")
        assert finished.complaints == [
            "bench: A and B do different work: classes is 10 in A and 9 in B"
        ]

    def test_a_side_without_a_number_is_told(self, bench: Bench) -> None:
        gone = a_record(id="bbb", outcome=Outcome.OOM, reason="no memory left")
        keep(bench, "results", measured("aaa", 1, 2), gone)
        finished = compared(bench, "aaa", "bbb")
        assert finished.code == 3
        assert "INVALID" in finished.stdout
        assert "B has no number (oom): no memory left" in finished.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["aaa", "zzz"], r"no record 'zzz' in results: `bench table` lists them"),
            (["nowhere.json", "aaa"], r"no record 'nowhere\.json'"),
            (["aaa", "results"], r"aaa and results: name two records, or two results folders"),
            (["results", "empty"], r"empty holds no record: name a folder"),
        ],
    )
    def test_what_is_not_there_is_named(
        self, bench: Bench, arguments: list[str], message: str
    ) -> None:
        keep(bench, "results", measured("aaa", 1, 2))
        (bench.cwd / "empty").mkdir()
        finished = compared(bench, *arguments)
        assert (finished.code, finished.stdout) == (2, "")
        (said,) = finished.complaints
        assert re.search(message, said)


class TestFolders:
    @pytest.fixture
    def folders(self, bench: Bench) -> Bench:
        keep(
            bench,
            "old",
            measured("a1", 100, 100.1, 99.9),
            measured("a2", 10, 11, case="gone"),
            measured("a3", 10, 11, case="changed", classes=10),
        )
        keep(
            bench,
            "new",
            measured("b1", 100.2, 100.4, 100.0),
            measured("b2", 10, 11, case="come"),
            measured("b3", 10, 11, case="changed", classes=11),
        )
        return bench

    def test_everything_shared_is_compared_and_the_rest_is_listed(self, folders: Bench) -> None:
        finished = compared(folders, "old", "new")
        assert finished.code == 3
        assert "only in A: quick / gone on cpu" in finished.stdout
        assert "only in B: quick / come on cpu" in finished.stdout
        assert "classes is 10 in A and 11 in B" in finished.stdout
        assert re.search(r"default +cpu +100\.0 +100\.2 +1\.002x", finished.stdout)
        assert "sequential: cannot confirm a regression" in finished.stdout

    def test_json_has_a_row_for_each(self, folders: Bench) -> None:
        rows = compared(folders, "old", "new", "--format", "json").rows
        told = {(row["a"] or row["b"])["case"]: (row["verdict"], row["reason"]) for row in rows}
        assert told["default"][0] == "looks the same"
        assert told["gone"] == (None, "only in A")
        assert told["come"] == (None, "only in B")
        assert told["changed"][0] == "INVALID"

    def test_csv_and_markdown_say_the_same(self, folders: Bench) -> None:
        finished = compared(folders, "old", "new", "--format", "csv")
        lines = list(csv.DictReader(io.StringIO(finished.stdout)))
        assert {line["a_case"] or line["b_case"]: line["verdict"] for line in lines} == {
            "default": "looks the same",
            "gone": "",
            "come": "",
            "changed": "INVALID",
        }
        markdown = compared(folders, "old", "new", "--format", "markdown").stdout
        assert "| quick | default | cpu | 100.0 | 100.2 |" in markdown
        assert "cannot confirm a regression" in markdown

    def test_files_that_are_no_records_are_left_aside_and_named(self, folders: Bench) -> None:
        (folders.cwd / "new/runs/odd.json").write_text("{}", encoding="utf-8")
        for format in ("rich", "markdown", "json", "csv"):  # noqa: A001
            finished = compared(folders, "old", "new", "--format", format)
            assert "odd.json" in finished.stdout + finished.stderr

    def test_a_case_that_only_a_holds_counts_and_one_that_only_b_holds_does_not(
        self, bench: Bench
    ) -> None:
        keep(bench, "one", measured("a1", 100, 100.1, 99.9))
        more = measured("b2", 10, 11, case="come")
        keep(bench, "two", measured("b1", 100, 100.1, 99.9), more)
        assert compared(bench, "one", "two").code == 0
        assert compared(bench, "two", "one").code == 3

    def test_a_side_of_a_comparison_is_not_the_newest_of_its_case(self, bench: Bench) -> None:
        later = (MORNING + dt.timedelta(hours=1)).isoformat()
        side = measured("a2", 10, 11, 12).model_copy(update={"created": later, "side": "A"})
        keep(bench, "old", measured("a1", 100, 100.1, 99.9), side)
        keep(bench, "new", measured("b1", 100, 100.1, 99.9))
        keep(bench, "sides", side)
        finished = compared(bench, "old", "new", "--format", "json")
        assert (finished.code, finished.rows[0]["a"]["record"][-7:]) == (0, "a1.json")
        assert "left out: 1 record of `bench ab`" in finished.stderr
        assert "sides holds no record" in compared(bench, "sides", "new").stderr

    def test_two_folders_with_nothing_in_common_tell_nothing(self, bench: Bench) -> None:
        keep(bench, "old", measured("a1", 1, 2, case="x"))
        keep(bench, "new", measured("b1", 1, 2, case="y"))
        assert compared(bench, "old", "new").code == 3

    def test_the_newest_record_of_a_case_is_compared(self, bench: Bench) -> None:
        later = MORNING + dt.timedelta(hours=1)
        newer = measured("a2", 50, 51, 49).model_copy(update={"created": later.isoformat()})
        keep(bench, "old", measured("a1", 100, 101, 99), newer)
        keep(bench, "new", measured("b1", 50, 51, 49))
        (row,) = compared(bench, "old", "new", "--format", "json").rows
        assert row["ratio"] == pytest.approx(1.0)


class TestAbIsRefused:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["quik", "mine.yaml"], r"'quik' is no shipped scenario; did you mean quick\?"),
            (["mine.yaml", "--set-b", "batchsize=3"], r"unknown knob batchsize"),
            (
                ["mine.yaml", "--set-b", "classes=11"],
                r"A and B do different work: classes is 10 in A and 11 in B; only the same work",
            ),
            (
                ["two.yaml", "--set-b", "batch_size=3"],
                r"A = two\.yaml: makes 2 cases \(first, second\).*one with --case or --case-a",
            ),
            (
                ["two.yaml", "--case-a", "first", "--case-b", "third"],
                r"--case-b third: there is no",
            ),
            (["two.yaml", "mine.yaml", "--case", "third"], r"--case third: there is no"),
            (
                ["mine.yaml", "--python-b", "/no/such/python"],
                r"--python-b /no/such/python: there is no such file; name the python of an env",
            ),
            (
                ["mine.yaml", "--python-a", "mine.yaml", "--set-b", "batch_size=2"],
                r"--python-a mine\.yaml: (cannot be started|there is no such file)",
            ),
            (
                ["mine.yaml", "mine.yaml", "--set", "measure.launches=20"],
                r"A: measure\.launches: is the same for both sides of a comparison; use --pairs",
            ),
            (
                ["mine.yaml", "--set-b", "measure={precision_target: 2, windows: 4}"],
                r"B: measure\.precision_target: .*; use --pairs",
            ),
            (
                ["mine.yaml", "mine.yaml", "--set-b", "measure.max_launches=50"],
                r"B: measure\.max_launches: .*; use --pairs",
            ),
            (
                ["mine.yaml", "mine.yaml", "--set", "measure.budget_s=5"],
                r"A: measure\.budget_s: .*; use --budget",
            ),
            (
                ["mine.yaml", "mine.yaml", "--set-a", "measure.health=false"],
                r"A: measure\.health: .*; use --no-health",
            ),
            (
                ["mine.yaml", "mine.yaml", "--pairs", "5"],
                r"--pairs 5: leaves half of a block A B B A.*; use --pairs 6",
            ),
        ],
    )
    def test_what_cannot_be_compared(
        self, bench: Bench, arguments: list[str], message: str
    ) -> None:
        bench.scenario("mine")
        bench.scenario(
            "two", "cases:\n  - case: first\n  - case: second\n    set: { batch_size: 2 }\n"
        )
        assert re.search(message, refuses(bench, "ab", *arguments, *TOY))

    def test_an_environment_without_accelbench_is_told_how_to_get_it(self, bench: Bench) -> None:
        bare = bench.cwd / "bare"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
        python = str(bare / "bin/python")
        bench.scenario("mine")
        said = refuses(bench, "ab", "mine.yaml", "--python-b", python, *TOY)
        assert said.startswith(f"--python-b {python}: cannot import accelbench: ")
        assert said.endswith(f"install it there: {python} -m pip install accelbench")

    def test_an_environment_with_another_version_is_refused(self, bench: Bench) -> None:
        other = answering(bench.cwd, '{"accelbench": "9.9.9", "python": "3.12.1"}')
        bench.scenario("mine")
        said = refuses(bench, "ab", "mine.yaml", "--python-b", other, *TOY)
        assert re.search(r"has accelbench 9\.9\.9, and this is \d.*the same version in both", said)

    def test_a_program_that_is_no_python_is_refused(self, bench: Bench) -> None:
        bench.scenario("mine")
        said = refuses(bench, "ab", "mine.yaml", "--python-b", "/bin/true", *TOY)
        assert said.startswith("--python-b /bin/true: cannot import accelbench: no output")

    def test_under_torchrun_it_is_refused(self, bench: Bench) -> None:
        bench.scenario("mine")
        rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "x"}
        finished = bench("ab", "mine.yaml", "mine.yaml", *TOY, environment=rank)
        assert finished.code == 2
        assert "has no meaning under torchrun" in finished.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["ab", "quick"], "say in what B differs"),
            (["ab", "quick", "quick", "--pairs", "3"], "--pairs"),
            (["ab", "quick", "quick", "--pairs", "101"], "--pairs"),
            (["ab", "quick", "quick", "--threshold", "0"], "--threshold"),
            (["ab", "quick", "quick", "--threshold", "nan"], "--threshold"),
            (["ab", "quick", "quick", "--budget", "nan"], "nan is not a positive, finite"),
            (["ab", "quick", "quick", "--budget", "inf"], "inf is not a positive, finite"),
            (["ab", "quick", "quick", "--budget", "-1"], "-1.0 is not a positive, finite"),
            (["compare", "one"], "Missing argument"),
            (["compare", "one", "two", "--threshold", "-3"], "--threshold"),
            (["compare", "one", "two", "--threshold", "nan"], "--threshold"),
        ],
    )
    def test_a_command_line_that_is_none_is_a_usage_error(
        self, bench: Bench, arguments: list[str], message: str
    ) -> None:
        finished = bench(*arguments)
        assert (finished.code, finished.stdout) == (2, "")
        assert message in finished.stderr
        assert "Traceback" not in finished.stderr


def answering(folder: Path, answer: str) -> str:
    """Return a program that answers the question for versions as it was told."""
    path = folder / "other-python"
    path.write_text(f"#!/bin/sh\nfor last; do :; done\necho '{answer}' > \"$last\"\n", "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_record_is_named_by_its_id_as_elsewhere(bench: Bench) -> None:
    keep(bench, "results", measured("aaa", 100, 101, 99))
    finished = bench("ab", "aaa", "--set-b", "classes=11", *TOY)
    assert finished.code == 2
    assert "A and B do different work: classes is " in finished.stderr


@pytest.mark.parametrize(
    ("happens", "code", "told"),
    [
        ("raise ZeroDivisionError('ours')", 70, "ZeroDivisionError: ours"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, ""),
    ],
)
def test_no_end_of_our_own_says_that_b_is_slower(
    bench: Bench, happens: str, code: int, told: str
) -> None:
    program = (
        "import os, signal, sys\nfrom bench.cli import comparing\nfrom bench.cli.main import main\n"
        f"def run(*_, **__):\n    {happens}\n"
        "comparing.run = run\nsys.argv = ['bench', 'compare', 'a', 'b']\nmain()\n"
    )
    finished = bench.start(command=("-c", program)).wait()
    assert (finished.code, finished.stdout) == (code, "")
    assert told in finished.stderr


def test_comparing_never_loads_torch(bench: Bench) -> None:
    keep(bench, "results", measured("aaa", 100, 101, 99), measured("bbb", 80, 81, 79))
    code = (
        "import sys\nfrom bench.cli.main import main\n"
        "sys.argv = ['bench', 'compare', 'aaa', 'bbb']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'scipy.stats'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    finished = bench.start(command=("-c", code)).wait()
    assert "heavy: []" in finished.stdout, finished.stderr
