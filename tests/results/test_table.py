"""The same rows for a person, a program and a document."""

from __future__ import annotations

import csv
import datetime as dt
import io
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from bench.results.record import Check, CheckResult, Device, Outcome, Record, Verdict
from bench.results.rows import Row, rows_of
from bench.results.store import Problem, Store, Stored, StoreError
from bench.results.table import PUBLISHED, Format, Table, read, read_claims, write
from bench.results.wording import figure, is_wide, rough, speedup, with_interval
from tests.builders import MORNING, a_case, a_record, launches_of

PROMISED = {
    *("scenario", "case", "backend", "device", "processes", "outcome", "reason", "verdict"),
    *("audit", "samples_per_s", "samples_per_s_low", "samples_per_s_high", "speedup", "step_ms"),
    *("launches", "peak_memory_bytes", "compile_s", "record"),
}
FAILED = Check(name="fence_waits", result=CheckResult.FAIL, evidence="9 %")


def records() -> list[Record]:
    def case(name: str, **knobs: object) -> object:
        return a_case(name, scenario="vit-ladder", knobs=knobs)

    return [
        a_record(
            case("baseline"),  # type: ignore[arg-type]
            launches=launches_of(12.3, 12.2, 12.5, peak_memory_bytes=3 * 2**30, compile_s=32.0),
            position=0,
        ),
        a_record(
            case("loader-worker", data={"workers": 1}),  # type: ignore[arg-type]
            launches=launches_of(22.3, 22.2, 24.5, peak_memory_bytes=5 * 2**20),
            verdict=Verdict.NOISY,
            verdict_reason="other programs used 12 % of the CPU time",
            position=1,
        ),
        a_record(
            case("bf16-env", precision="bf16-env"),  # type: ignore[arg-type]
            outcome=Outcome.UNSUPPORTED,
            reason="precision=bf16-env: only | torch_xla\x1b[31m has [bold]it[/bold]",
            remedy="use precision=bf16",
            position=2,
        ),
        a_record(
            case("fast", batch_size=16),  # type: ignore[arg-type]
            launches=launches_of(200.0, 204.0, audit=[FAILED]),
            verdict=Verdict.SUSPECT,
            verdict_reason="fence_waits: 9 % of the window was left",
            position=3,
        ),
        a_record(case("once", batch_size=4), launches=launches_of(15.0), position=4),  # type: ignore[arg-type]
    ]


def rows() -> list[Row]:
    return rows_of(Stored(r, Path("results"), Path(f"{r.id}.json")) for r in records())


def written(table: Table, format: Format, width: int | None = None) -> str:  # noqa: A002
    out = io.StringIO()
    write(table, format, out, width=width)
    return out.getvalue()


class TestJson:
    def test_is_one_document_whose_rows_have_what_is_promised(self) -> None:
        problem = Problem(Path("a.json"), "not JSON")
        document = orjson.loads(written(Table(rows(), problems=[problem]), Format.JSON))
        assert document["schema"] == 1
        assert document["problems"] == [{"path": "a.json", "reason": "not JSON"}]
        assert [row["case"] for row in document["rows"]] == [row.case for row in rows()]
        for row in document["rows"]:
            assert set(row) >= PROMISED

    def test_unknown_is_null(self) -> None:
        document = orjson.loads(written(Table(rows()), Format.JSON))
        unsupported = document["rows"][2]
        assert unsupported["samples_per_s"] is None
        assert unsupported["peak_memory_bytes"] is None

    def test_columns_choose_fields_and_knobs(self) -> None:
        table = Table(rows()[:2], columns=["case", "data.workers"])
        assert orjson.loads(written(table, Format.JSON))["rows"] == [
            {"case": "baseline", "data.workers": 0},
            {"case": "loader-worker", "data.workers": 1},
        ]

    def test_a_path_that_is_no_utf8_is_written_as_far_as_it_can_be_read(
        self, tmp_path: Path
    ) -> None:
        folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9")
        path = Store(Path(folder)).append(records()[0])
        path.with_name("broken.json").write_text("{")
        for format in Format:  # noqa: A001
            written(read([Path(folder)]), format).encode()
        document = orjson.loads(written(read([Path(folder)]), Format.JSON))
        (row,), (problem,) = document["rows"], document["problems"]
        readable = f"{tmp_path}/\N{REPLACEMENT CHARACTER}t\N{REPLACEMENT CHARACTER}/"
        assert row["record"].startswith(readable)
        assert problem["path"].startswith(readable)

    def test_of_nothing_is_a_document_too(self) -> None:
        document = orjson.loads(written(Table([]), Format.JSON))
        assert document == {"schema": 1, "rows": [], "problems": []}


class TestCsv:
    def test_has_a_line_a_row_and_counts_stay_whole(self) -> None:
        lines = list(csv.DictReader(io.StringIO(written(Table(rows()), Format.CSV))))
        assert len(lines) == 5
        assert lines[0]["peak_memory_bytes"] == str(3 * 2**30)
        assert lines[2]["peak_memory_bytes"] == ""
        assert float(lines[0]["samples_per_s"]) == rows()[0].samples_per_s

    def test_columns_choose_fields_and_knobs(self) -> None:
        table = Table(rows()[:2], columns=["case", "data.workers"])
        assert written(table, Format.CSV) == "case,data.workers\nbaseline,0\nloader-worker,1\n"

    def test_of_nothing_is_a_header(self) -> None:
        assert written(Table([], columns=["case"]), Format.CSV) == "case\n"


class TestMarkdown:
    def test_is_a_table_with_intervals_verdicts_and_reasons(self) -> None:
        lines = written(Table(rows()), Format.MARKDOWN).splitlines()
        assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1
        assert "| 12.33 [11.96, 12.72] | 1.00x |" in lines[2]
        assert "| ~1.86x [" in lines[3]
        assert "3.00 GiB" in lines[2]
        assert "5 MiB" in lines[3]
        assert "unsupported" in lines[4]
        assert "use precision=bf16" in lines[4]

    def test_text_from_a_record_stays_in_its_cell_and_is_no_markup(self) -> None:
        line = written(Table(rows()), Format.MARKDOWN).splitlines()[4]
        assert r"only \| torch\_xla" in line
        assert r"\[bold\]it" in line
        assert "\x1b" not in line

    def test_columns_that_hold_nothing_are_left_out(self) -> None:
        head = written(Table(rows()), Format.MARKDOWN).splitlines()[0]
        assert "loader wait" not in head
        assert "peak memory" in head

    def test_columns_may_be_chosen(self) -> None:
        table = Table(rows()[:1], columns=["case", "batch_size"])
        assert written(table, Format.MARKDOWN) == (
            "| case | batch\\_size |\n| --- | --- |\n| baseline | 8 |\n"
        )


class TestTerminal:
    def test_shows_intervals_speedups_verdicts_and_reasons_in_words(self) -> None:
        text = written(Table(rows()), Format.RICH, width=120)
        for words in (
            "12.33 [11.96, 12.72]",
            "1.00x",
            "~1.86x [1.67, 2.08]",
            "measured",
            "noisy",
            "suspect",
            "unsupported",
            "other programs used 12 % of the CPU time",
            "only | torch_xla",
            "use precision=bf16",
            "fast: this row is suspect",
        ):
            assert words in text

    def test_explains_its_marks(self) -> None:
        text = written(Table(rows()), Format.RICH, width=120)
        assert "[low, high]: 95 % interval over launches" in text
        assert "a number without an interval comes from one launch" in text
        assert "~: a ratio of which one side is noisy" in text

    def test_explains_no_mark_that_it_did_not_make(self) -> None:
        text = written(Table(rows()[:1]), Format.RICH, width=120)
        assert "~" not in text
        assert "noisy" not in text
        assert "claimed" not in text

    def test_says_what_to_do_about_noise_and_about_a_suspect_number(self) -> None:
        text = written(Table(rows()), Format.RICH, width=200)
        assert "1 row is noisy: something else used this machine. Stop it and run again" in text
        assert "1 row is suspect" in text
        assert "`bench show RECORD` has the evidence" in text

    def test_text_from_a_record_is_shown_as_text(self) -> None:
        text = written(Table(rows()), Format.RICH, width=200)
        assert "[bold]it[/bold]" in text
        assert "\x1b" not in text

    @pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
    def test_never_breaks_a_figure_and_never_overflows(self, width: int) -> None:
        lines = written(Table(rows()), Format.RICH, width=width).splitlines()
        assert max(len(line) for line in lines) <= width
        row = next(line for line in lines if line.startswith("loader-worker"))
        assert "noisy" in row
        assert "22.98" in row
        assert "[" not in row or "]" in row

    def test_names_the_columns_that_found_no_room(self) -> None:
        assert "no room for" not in written(Table(rows()), Format.RICH, width=120)
        assert "no room for: memory, compile s, step ms" in written(
            Table(rows()), Format.RICH, width=80
        )

    def test_rows_of_one_case_are_told_apart_by_their_settings(self) -> None:
        both = [a_record(a_case(knobs={"batch_size": size})) for size in (4, 8)]
        shown = rows_of(Stored(r, Path(), Path(r.id)) for r in both)
        text = written(Table(shown), Format.RICH, width=120)
        assert "batch_size=4" in text
        assert "batch_size=8" in text

    def test_the_heading_has_one_line_a_place_with_its_first_and_last_time(self) -> None:
        def record(minutes: int, device: str = "Test CPU", processes: int = 1) -> Record:
            return a_record(
                a_case(f"after-{minutes}", knobs={"processes": processes}),
                device=Device(model=device, count=1),
                created=MORNING + dt.timedelta(minutes=minutes),
            )

        shown = [
            *(record(minutes) for minutes in (7, 0, 3)),
            *(record(minutes, processes=2) for minutes in (5, 24 * 60)),
            record(9, device="Other CPU"),
        ]
        table = Table(rows_of(Stored(r, Path(), Path(r.id)) for r in shown))
        lines = written(table, Format.RICH, width=120).splitlines()
        assert sorted(line.strip() for line in lines if line.startswith("  cpu: ")) == [
            "cpu: Other CPU, 1 process, 2026-11-20 08:09 UTC",
            "cpu: Test CPU, 1 process, 2026-11-20 08:00 to 08:07 UTC",
            "cpu: Test CPU, 2 processes, 2026-11-20 08:05 to 2026-11-21 08:00 UTC",
        ]

    def test_a_number_that_two_launches_leave_open_is_shown_short_and_said_so(self) -> None:
        noisy = a_record(launches=launches_of(1.0, 150.0))
        shown = rows_of([Stored(noisy, Path(), Path("a.json"))])
        text = written(Table(shown), Format.RICH, width=120)
        assert "[1.8e-13, 8.2e+14]" in text
        assert "1 row is too uncertain to use" in text
        assert "Raise --launches." in text
        assert "too uncertain" not in written(Table(rows()[:1]), Format.RICH, width=120)

    def test_files_left_aside_are_named(self) -> None:
        table = Table(rows(), problems=[Problem(Path("a.json"), "not JSON")])
        assert "left aside: a.json: not JSON" in written(table, Format.RICH, width=120)

    def test_says_so_when_there_is_nothing(self) -> None:
        assert written(Table([]), Format.RICH, width=80) == "No rows.\n"

    def test_columns_may_be_chosen(self) -> None:
        table = Table(rows()[:2], columns=["case", "data.workers"])
        lines = written(table, Format.RICH, width=80).splitlines()
        assert [line.split() for line in lines if "loader" in line] == [["loader-worker", "1"]]


class TestReading:
    def test_the_records_of_several_folders_make_one_table(self, tmp_path: Path) -> None:
        for folder, record in zip(("a", "b"), records(), strict=False):
            Store(tmp_path / folder).append(record)
        (tmp_path / "a/runs/broken.json").write_text("{")
        table = read([tmp_path / "a", tmp_path / "b"])
        assert [row.case for row in table.rows] == ["baseline", "loader-worker"]
        assert [problem.path.name for problem in table.problems] == ["broken.json"]
        assert table.rows[1].speedup == pytest.approx(1.86, abs=0.01)

    def test_a_row_names_a_file_that_can_be_opened(self, tmp_path: Path) -> None:
        path = Store(tmp_path).append(records()[0])
        (row,) = read([tmp_path]).rows
        assert row.record == str(path)

    def test_rows_and_columns_are_chosen(self, tmp_path: Path) -> None:
        for record in records():
            Store(tmp_path).append(record)
        table = read([tmp_path], conditions=["data.workers=1"], columns="case,verdict")
        assert [row.case for row in table.rows] == ["loader-worker"]
        assert table.columns == ["case", "verdict"]

    def test_a_folder_that_is_missing_is_said_so(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="does not exist"):
            read([tmp_path / "nowhere"])
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="is not a folder"):
            read([tmp_path / "file"])

    def test_the_published_numbers_stand_beside_ours_on_request(self, tmp_path: Path) -> None:
        Store(tmp_path).append(records()[0])
        assert len(read([tmp_path]).rows) == 1
        table = read([tmp_path], published=[PUBLISHED])
        ladder = [row for row in table.rows if row.scenario == "vit-ladder"]
        assert [row.verdict for row in ladder] == ["measured"] + ["claimed"] * 9
        text = written(table, Format.RICH, width=120)
        assert "Chaim Rand" in text
        assert "never compared by ratio" in text
        assert "1027" in text

    def test_without_any_folder_the_claims_stand_alone(self) -> None:
        assert {row.verdict for row in read([], published=[PUBLISHED]).rows} == {"claimed"}

    def test_a_folder_of_claims_that_is_missing_is_said_so(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"nowhere does not exist.*`published`"):
            read([tmp_path], published=[tmp_path / "nowhere"])
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="is not a folder"):
            read([tmp_path], published=[tmp_path / "file"])

    def test_a_folder_without_a_publication_is_named(self, tmp_path: Path) -> None:
        table = read([], published=[tmp_path])
        assert [str(problem) for problem in table.problems] == [
            f"{tmp_path}: no publication (*.json) lies in this folder"
        ]

    def test_a_broken_publication_is_reported_and_the_others_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text('{"kind": "publication"}')
        (tmp_path / "b.json").write_bytes((PUBLISHED / "inferentia2-ladder-2024.json").read_bytes())
        claims, problems = read_claims(tmp_path)
        assert len(claims) == 9
        assert [problem.path.name for problem in problems] == ["a.json"]


class TestPublished:
    def test_the_ladder_carries_its_sources_numbers(self) -> None:
        claims, problems = read_claims()
        assert problems == []
        ladder = {row.case: row.samples_per_s for row in claims if row.scenario == "vit-ladder"}
        assert ladder == {
            "baseline": 251.98,
            "loader-worker": 253.56,
            "batch-size": 265.68,
            "autocast": 196.64,
            "bf16-everywhere": 394.51,
            "steps-per-graph": 1027.39,
            "compiler-bf16": None,
            "fp8": 940.36,
            "compiler-flags": 1093.25,
        }
        (trainium,) = (row for row in claims if row.scenario == "vit-train")
        assert (trainium.samples_per_s, trainium.processes) == (6587.25, 32)

    def test_every_claim_has_a_source(self) -> None:
        assert all(row.source and row.verdict == "claimed" for row in read_claims()[0])


@pytest.mark.parametrize(
    ("value", "text"),
    [(1027.39, "1027"), (251.98, "252.0"), (12.345, "12.35"), (0.01234, "0.01234"), (0.0, "0.000")],
)
def test_a_figure_has_four_significant_digits(value: float, text: str) -> None:
    assert figure(value) == text


def test_the_bounds_have_the_decimals_of_the_estimate() -> None:
    assert with_interval(100.04, 99.96, 999.5) == "100.0 [100.0, 999.5]"
    assert with_interval(5.0, None, None) == "5.000"
    assert with_interval(None, None, None) == ""


def test_bounds_more_than_tenfold_apart_keep_two_digits() -> None:
    assert with_interval(12.33, 2.765e-10, 549909817134.1) == "12.33 [2.8e-10, 5.5e+11]"
    assert with_interval(12.33, 1.5, 123.4) == "12.33 [1.5, 120]"
    assert not is_wide(1.0, 10.0)
    assert is_wide(1.0, 10.01)
    assert is_wide(0.0, 1.0)
    row = rows()[1].model_copy(update={"speedup_low": 3e-7, "speedup_high": 1.2e7})
    assert speedup(row).endswith("x [3.0e-07, 1.2e+07]")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.009, "9.0e-03"), (0.0123, "0.012"), (9940.0, "9900"), (12345.0, "1.2e+04")],
)
def test_a_rough_bound_is_written_out_where_that_is_short(value: float, text: str) -> None:
    assert rough(value) == text


def test_the_room_never_imports_torch_and_pandas_only_for_csv() -> None:
    code = (
        "import sys, bench.results.table, bench.results.terminal, bench.results.scratch;"
        "print([m for m in ('torch', 'pandas', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
