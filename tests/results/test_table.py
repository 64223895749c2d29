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

from bench.results.prices import Price, Prices
from bench.results.record import (
    Check,
    CheckResult,
    Device,
    Health,
    Outcome,
    Record,
    Verdict,
)
from bench.results.row import Row
from bench.results.rows import rows_of
from bench.results.store import Problem, Store, Stored, StoreError
from bench.results.table import PUBLISHED, Format, Table, frame, read, read_claims, write
from bench.results.wording import (
    figure,
    is_wide,
    remarks,
    rough,
    signed,
    speedup,
    standing,
    with_interval,
)
from bench.scenarios.errors import ScenarioError
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
        assert document == {"schema": 1, "rows": [], "problems": [], "sides_left_out": 0}


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


class TestFrame:
    def test_keeps_counts_whole_beside_unknowns_and_agrees_with_csv(self) -> None:
        table = Table(rows())
        found = frame(table)
        assert found["peak_memory_bytes"][0] == 3 * 2**30
        assert type(found["peak_memory_bytes"][0]) is int
        assert found["peak_memory_bytes"][2] is None
        assert found.to_csv(index=False) == written(table, Format.CSV)


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


UNLEARNED = Health(
    steps=10,
    loss_gap=4.6081,
    learned_share=0.004,
    learns=False,
    reason="its loss went from 6.906 to 6.906 in 10 updates, fp32's from 6.911 to 2.298",
)
LEARNED = Health(steps=10, loss_gap=-0.0123, learned_share=1.01, learns=True)


def used(**changes: object) -> Row:
    """Return a row with every figure about what it used."""
    given = {
        "mfu": 0.1423,
        "mfu_source": "989 TFLOP/s, bf16, H1 (its data sheet)",
        "energy_j_per_sample": 0.1234,
        "energy_source": "a counter",
        "cost_per_million_samples": 22.7,
        "currency": "USD",
        "cost_source": "box at 3.6 USD an hour (2026-11-01, price list)",
    }
    return rows()[0].model_copy(update=given | changes)


def learning() -> list[Row]:
    """Return a row that learns and one that does not."""
    both = [
        a_record(a_case("fp32"), launches=launches_of(10.0, 11.0), health=LEARNED),
        a_record(
            a_case("pure-bf16", knobs={"precision": "bf16"}),
            launches=launches_of(20.0, 22.0, peak_memory_bytes=3 * 2**30, compile_s=32.0),
            health=UNLEARNED,
            position=1,
        ),
    ]
    return rows_of(Stored(r, Path("results"), Path(f"{r.id}.json")) for r in both)


class TestTraining:
    def test_a_row_that_does_not_learn_says_so_beside_its_verdict(self) -> None:
        text = written(Table(learning()), Format.RICH, width=140)
        line = next(line for line in text.splitlines() if line.startswith("pure-bf16"))
        assert line.rstrip().endswith("measured, does not learn")
        assert "+4.608" in line
        assert "-0.012" in text
        assert "pure-bf16 (measured, does not learn)" in text
        told = " ".join(text.split())
        assert "does not learn: its loss went from 6.906 to 6.906 in 10 updates, fp32's" in told
        assert "1 row does not learn: the speed is that of a training that no longer" in told
        assert "loss gap: loss after some steps on one batch, less that of fp32; nats" in text

    @pytest.mark.parametrize("width", [60, 80, 100, 120])
    def test_the_mark_takes_two_lines_before_it_costs_a_column(self, width: int) -> None:
        lines = written(Table(learning()), Format.RICH, width=width).splitlines()
        assert max(len(line) for line in lines) <= width
        at = next(i for i, line in enumerate(lines) if line.startswith("pure-bf16"))
        both = " ".join(f"{lines[at]} {lines[at + 1]}".split())
        assert both.endswith("does not learn")
        assert "measured," in both

    def test_a_noisy_row_that_does_not_learn_says_both(self) -> None:
        row = learning()[1].model_copy(update={"verdict": "noisy"})
        assert standing(row) == "noisy, does not learn"

    def test_a_simulated_row_says_so_beside_its_verdict(self) -> None:
        row = learning()[0].model_copy(update={"simulated": True})
        assert standing(row) == "measured, simulated"

    @pytest.mark.parametrize("format_", list(Format))
    def test_and_where_columns_were_chosen_in_one_of_its_own(
        self, tmp_path: Path, format_: Format
    ) -> None:
        store = Store(tmp_path)
        store.append(a_record())
        columns = "case,verdict"
        assert "simulated" not in written(read([tmp_path], columns=columns), format_, width=80)
        store.append(a_record(simulated=True))
        inside = read([store.simulated().root], columns=columns)
        assert inside.columns == ["case", "verdict", "simulated"]
        assert "simulated" in written(inside, format_, width=80)
        asked = read([store.simulated().root], columns="simulated,case")
        assert asked.columns == ["simulated", "case"]

    def test_every_format_has_the_mark(self) -> None:
        row = written(Table(learning()), Format.MARKDOWN).splitlines()[3]
        assert "| +4.608 |" in row
        assert "| measured, does not learn |" in row
        document = orjson.loads(written(Table(learning()), Format.JSON))
        assert [row["learns"] for row in document["rows"]] == [True, False]
        assert [row["verdict"] for row in document["rows"]] == ["measured", "measured"]
        lines = list(csv.DictReader(io.StringIO(written(Table(learning()), Format.CSV))))
        assert [line["learns"] for line in lines] == ["True", "False"]

    def test_rows_that_learn_have_no_mark_and_no_warning(self) -> None:
        text = written(Table(learning()[:1]), Format.RICH, width=120)
        assert "not learn" not in text
        assert "loss gap" in text

    def test_a_table_without_any_health_has_no_such_column(self) -> None:
        assert "loss gap" not in written(Table(rows()), Format.RICH, width=120)
        assert "loss gap" not in written(Table(rows()), Format.MARKDOWN)


class TestWhatItUsed:
    def test_figures_have_columns_where_any_row_has_them_and_cite_their_sources(self) -> None:
        text = written(Table([used(), rows()[1]]), Format.RICH, width=200)
        for words in (
            *("MFU", "14.2 %", "J/sample", "0.1234", "cost/M", "22.70 USD"),
            "MFU: the model's FLOP/s over the device's peak in the type of its products",
            "cost/M: of a million samples, by the price file",
        ):
            assert words in text
        notes = [" ".join(line.split()) for line in text.splitlines()]
        assert "cost/M box at 3.6 USD an hour (2026-11-01, price list)" in notes
        assert "MFU 989 TFLOP/s, bf16, H1 (its data sheet)" in notes
        assert "J/sample a counter" in notes
        for words in ("MFU", "J/sample", "cost/M"):
            assert words not in written(Table(rows()), Format.RICH, width=200)

    def test_two_currencies_stand_beside_each_other(self) -> None:
        other = used(case="other", currency="EUR", cost_source="crate at 2 EUR an hour (a, b)")
        text = written(Table([used(), other]), Format.RICH, width=200)
        assert "22.70 USD" in text
        assert "22.70 EUR" in text
        assert "crate at 2 EUR an hour (a, b)" in text
        assert "box at 3.6 USD an hour" in text

    def test_the_number_the_loss_gap_and_the_cost_outlast_the_other_columns(self) -> None:
        row = used(loss_gap=0.5, learns=True, loader_wait_share=0.1, compile_warm_s=3.0)
        head = next(
            line
            for line in written(Table([row]), Format.RICH, width=80).splitlines()
            if line.startswith("case")
        )
        names = {" ".join(part.split()) for part in head.split("   ")} - {""}
        assert names == {"case", "samples/s", "speed-up", "loss gap", "cost/M", "verdict"}

    def test_what_a_hidden_column_rests_on_is_not_cited(self) -> None:
        text = written(Table([used()]), Format.RICH, width=80)
        assert "box at 3.6 USD" in text
        assert "J/sample" in text.partition("no room for:")[2]
        assert "a counter" not in text

    def test_markdown_has_them_too_with_their_sources_below(self) -> None:
        lines = written(Table([used()]), Format.MARKDOWN).splitlines()
        assert "| 14.2 % | 0.1234 | 22.70 USD |" in lines[2]
        assert "- cost/M: box at 3.6 USD an hour (2026-11-01, price list)" in lines
        assert "- J/sample: a counter" in lines

    def test_all_of_it_can_be_asked_for_by_name(self) -> None:
        names = ["case", "mfu", "energy_j_per_sample", "cost_per_million_samples", "currency"]
        text = written(Table([used()], columns=names), Format.CSV)
        assert text.splitlines()[1] == "baseline,0.1423,0.1234,22.7,USD"


class TestRemarks:
    def test_remarks_and_noise_are_notes_below_the_table(self) -> None:
        row = rows()[0].model_copy(
            update={
                "audit_remarks": "loader_bound: 43 % of the time",
                "audit_noise": "clocks_held: 12 % below",
            }
        )
        assert remarks(row) == ["clocks_held: 12 % below", "loader_bound: 43 % of the time"]
        text = written(Table([row]), Format.RICH, width=120)
        assert "clocks_held: 12 % below; loader_bound: 43 % of the time" in text

    def test_a_noisy_rows_reason_is_not_repeated(self) -> None:
        row = rows()[1].model_copy(update={"audit_noise": "machine_quiet: others used 12 %"})
        assert remarks(row) == ["other programs used 12 % of the CPU time"]


class TestReading:
    def test_the_records_of_several_folders_make_one_table(self, tmp_path: Path) -> None:
        for folder, record in zip(("a", "b"), records(), strict=False):
            Store(tmp_path / folder).append(record)
        (tmp_path / "a/runs/broken.json").write_text("{")
        table = read([tmp_path / "a", tmp_path / "b"])
        assert [row.case for row in table.rows] == ["baseline", "loader-worker"]
        assert [problem.path.name for problem in table.problems] == ["broken.json"]
        assert table.rows[1].speedup == pytest.approx(1.86, abs=0.01)

    @pytest.mark.parametrize("format", [Format.RICH, Format.MARKDOWN])
    def test_a_side_of_a_comparison_is_no_row_and_is_counted(
        self,
        tmp_path: Path,
        format: Format,  # noqa: A002
    ) -> None:
        own, later = records()[0], MORNING + dt.timedelta(days=9)
        Store(tmp_path).append(own)
        for id, side in (("s1", "A"), ("s2", "B")):  # noqa: A001
            made = {"id": id, "side": side, "created": later.isoformat()}
            Store(tmp_path).append(own.model_copy(update=made))
        table = read([tmp_path])
        assert [Path(row.record or "").stem[-len(own.id) :] for row in table.rows] == [own.id]
        told = written(table, format, width=120).replace("\\", "")
        assert "left out: 2 records of `bench ab`, which `bench show` and `bench compare`" in told
        assert orjson.loads(written(table, Format.JSON))["sides_left_out"] == 2

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

    def test_prices_make_costs_of_what_was_read(self, tmp_path: Path) -> None:
        Store(tmp_path).append(a_record(launches=launches_of(10.0)))
        price = Price(
            instance="box",
            device="Test CPU",
            price_per_hour=3.6,
            currency="USD",
            date="2026-11-01",
            source="price list",
        )
        (row,) = read([tmp_path], prices=Prices("p.yaml", [price])).rows
        assert row.cost_per_million_samples == pytest.approx(100.0)
        twice = Prices("p.yaml", [price, price])
        with pytest.raises(ScenarioError, match=r"p\.yaml: prices\[0\] \(box\) and prices\[1\]"):
            read([tmp_path], prices=twice)

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
    [
        (1027.39, "1027"),
        (251.98, "252.0"),
        (99.999, "100.0"),
        (0.99999, "1.000"),
        (12.345, "12.35"),
        (0.01234, "0.01234"),
        (0.0, "0.000"),
    ],
)
def test_a_figure_has_four_significant_digits(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("difference", "text"), [(4.6081, "+4.608"), (-0.0123, "-0.012"), (-0.0004, "0.000")]
)
def test_a_loss_gap_has_a_sign_where_it_is_any(difference: float, text: str) -> None:
    assert signed(difference) == text


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


def test_the_room_imports_neither_torch_nor_pandas() -> None:
    code = (
        "import sys, bench.results.table, bench.results.terminal, bench.results.scratch;"
        "print([m for m in ('torch', 'pandas', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
