"""How well several devices are used: against the one device of the same weak or strong series."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from bench.results.comparison import paired
from bench.results.record import Outcome, Record, Verdict
from bench.results.row import Row
from bench.results.rows import rows_of
from bench.results.store import Stored
from bench.results.table import Format, Table, write
from tests.builders import a_case, a_record, launches_of

ONE = (100.0, 101.0, 99.0)
TWO = (190.0, 195.0, 188.0)
OWN = {"own_memory": True, "threads": 4}
HOST = {"own_memory": False, "threads": 1}


def row(
    case: str,
    position: int,
    knobs: Mapping[str, object],
    speeds: Sequence[float] = TWO,
    *,
    actual: Mapping[str, object] = OWN,
    **fields: object,
) -> Record:
    """Return a row of the session, with a number unless told otherwise."""
    if fields.get("outcome", Outcome.OK) is Outcome.OK:
        fields = {"launches": launches_of(*speeds, actual=dict(actual))} | fields
    return a_record(a_case(case, knobs=knobs), position=position, **fields)  # type: ignore[arg-type]


def table(*records: Record) -> dict[str, Row]:
    found = rows_of(Stored(r, Path("results"), Path(f"{r.id}.json")) for r in records)
    return {row.case: row for row in found}


def one(**fields: object) -> Record:
    return row("one", 0, {"batch_size": 8}, ONE, **fields)  # type: ignore[arg-type]


def text(rows: Mapping[str, Row], format: Format, width: int = 100) -> str:  # noqa: A002
    out = io.StringIO()
    write(Table(list(rows.values())), format, out, width=width)
    return out.getvalue()


def test_weak_scaling_is_over_the_same_batch_per_device_and_paired_as_a_speed_up() -> None:
    rows = table(one(), row("two", 1, {"batch_size": 8, "processes": 2}))
    ratio = paired([b / a for a, b in zip(ONE, TWO, strict=True)])
    found = rows["two"]
    assert found.scaling == pytest.approx(ratio.estimate / 2)
    assert ratio.low is not None
    assert ratio.high is not None
    assert found.scaling_low == pytest.approx(ratio.low / 2)
    assert found.scaling_high == pytest.approx(ratio.high / 2)
    assert (found.scaling_series, found.scaling_against) == ("weak", "one")
    assert found.scaling_reason is None
    assert (found.devices, found.global_batch) == (2, 16)


def test_strong_scaling_is_over_the_same_global_batch() -> None:
    by_batch = row("by-batch", 1, {"batch_size": 2, "processes": 4}, (200.0, 202.0, 198.0))
    accumulated = {"batch_size": 2, "processes": 2, "gradient_accumulation": 2}
    rows = table(one(), by_batch, row("accumulated", 2, accumulated, ONE))
    assert rows["by-batch"].scaling == pytest.approx(0.5)
    assert rows["accumulated"].scaling == pytest.approx(0.5)
    assert {rows[name].scaling_series for name in ("by-batch", "accumulated")} == {"strong"}
    assert {found.global_batch for found in rows.values()} == {8}


def test_weak_and_strong_rows_each_find_their_own_first_row() -> None:
    large = row("one-large", 1, {"batch_size": 16}, (160.0,) * 3)
    two = row("two", 2, {"batch_size": 8, "processes": 2}, (180.0,) * 3)
    rows = table(large, two)
    assert (rows["two"].scaling_series, rows["two"].scaling_against) == ("strong", "one-large")
    rows = table(one(), large, two)
    assert (rows["two"].scaling_series, rows["two"].scaling_against) == ("weak", "one")


def test_the_same_engine_is_taken_before_a_plain_process_and_another_never() -> None:
    settings = {"engine": "fsdp", "batch_size": 8}
    alone = row("fsdp-1", 1, settings, (80.0,) * 3)
    ddp = row("ddp-1", 2, {"engine": "ddp", "batch_size": 8}, (90.0,) * 3)
    two = row("fsdp-2", 3, {**settings, "processes": 2}, (160.0,) * 3)
    assert table(one(), alone, ddp, two)["fsdp-2"].scaling == pytest.approx(1.0)
    assert table(one(), ddp, two)["fsdp-2"].scaling_against == "one"
    assert table(ddp, two)["fsdp-2"].scaling is None


def test_devices_of_one_process_count_as_well() -> None:
    spmd = row("spmd", 1, {"batch_size": 8, "engine": "spmd", "spmd": {"devices": 4}}, (300.0,) * 3)
    found = table(row("one", 0, {"batch_size": 8}, (100.0,) * 3), spmd)["spmd"]
    assert (found.devices, found.global_batch) == (4, 32)
    assert found.scaling == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("threads", "efficiency"), [((1, 1), 0.5), ((1, 2), 1.0)], ids=["a core each", "shared out"]
)
def test_on_a_host_the_devices_are_threads(threads: tuple[int, int], efficiency: float) -> None:
    each, alone = threads
    first = one(actual={"own_memory": False, "threads": alone})
    two = {"batch_size": 8, "processes": 2}
    second = row("two", 1, two, ONE, actual={"own_memory": False, "threads": each})
    assert table(first, second)["two"].scaling == pytest.approx(efficiency)


OTHER_BATCH = (
    "the session has no row of these settings on one device, neither with the same batch per "
    "device (3) nor with the same global batch (6)"
)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (one(), row("two", 1, {"batch_size": 3, "processes": 2}), OTHER_BATCH),
        (
            row("one", 0, {"batch_size": 3, "precision": "amp-bf16"}),
            row("two", 1, {"batch_size": 3, "processes": 2}),
            OTHER_BATCH,
        ),
        (
            row("one", 0, {"batch_size": 3, "classes": 10}),
            row("two", 1, {"batch_size": 3, "processes": 2}),
            OTHER_BATCH,
        ),
        (
            one(session="yesterday"),
            row("two", 1, {"batch_size": 3, "processes": 2}),
            OTHER_BATCH,
        ),
        (
            one(outcome=Outcome.CRASH, reason="gone"),
            row("two", 1, {"batch_size": 8, "processes": 2}),
            "the row of one device (one) has no number",
        ),
        (
            one(verdict=Verdict.SUSPECT),
            row("two", 1, {"batch_size": 8, "processes": 2}),
            "the row of one device (one) is suspect",
        ),
        (
            one(),
            row("two", 1, {"batch_size": 8, "processes": 2}, verdict=Verdict.SUSPECT),
            "this row is suspect",
        ),
        (
            one(),
            row("two", 1, {"batch_size": 8, "processes": 2}, actual={}),
            "the record does not tell whether its ranks share the host's processors",
        ),
        (
            one(actual={}),
            row("two", 1, {"batch_size": 8, "processes": 2}, actual=HOST),
            "it is not known how many threads its ranks computed with",
        ),
    ],
)
def test_where_there_is_nothing_to_scale_from_the_row_says_why(
    first: Record, second: Record, reason: str
) -> None:
    rows = table(first, second)
    found = rows["two"]
    assert found.samples_per_s is not None
    assert found.scaling is found.scaling_low is found.scaling_high is None
    assert found.scaling_reason == reason
    shown = text(rows, Format.RICH, 200)
    assert f"two: {reason}" in shown
    assert "weak" not in shown


def test_one_device_and_a_row_without_a_number_have_no_efficiency_and_no_reason() -> None:
    rows = table(one(), row("two", 1, {"processes": 2}, outcome=Outcome.OOM, reason="full"))
    for found in rows.values():
        assert (found.scaling, found.scaling_series, found.scaling_reason) == (None, None, None)
    assert "scaling" not in text(rows, Format.RICH)


def test_rows_of_several_devices_alone_are_not_asked_for_it() -> None:
    rows = table(row("two", 0, {"processes": 2}))
    assert rows["two"].scaling_reason is not None
    assert "scaling" not in text(rows, Format.RICH)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_shows_it_beside_the_ranks(width: int) -> None:
    noisy = row("two", 1, {"batch_size": 8, "processes": 2}, verdict=Verdict.NOISY)
    shown = text(table(one(), noisy), Format.RICH, width)
    line = next(line for line in shown.splitlines() if line.startswith("two"))
    assert line.split()[1] == "2"
    assert "weak ~0.95 [0.93, 0.98]" in line
    assert "~: a ratio of which one side is noisy" in shown
    legend = " ".join(shown.split())
    assert "scaling: throughput / (devices x that of one device)" in legend
    assert "strong: against the same global batch" in legend


def test_every_other_format_has_it() -> None:
    rows = table(one(), row("two", 1, {"batch_size": 8, "processes": 2}))
    assert "| weak 0.95 [0.93, 0.98] |" in text(rows, Format.MARKDOWN)
    header, _, line = (text.split(",") for text in text(rows, Format.CSV).splitlines())
    assert line[header.index("scaling_series")] == "weak"
    assert float(line[header.index("scaling")]) == rows["two"].scaling
    assert line[header.index("global_batch")] == "16"
    (_, found) = json.loads(text(rows, Format.JSON))["rows"]
    assert found["scaling"] == rows["two"].scaling
    assert (found["global_batch"], found["scaling_against"]) == (16, "one")


def test_it_can_be_asked_for_by_name() -> None:
    found = list(table(one(), row("two", 1, {"batch_size": 8, "processes": 2})).values())
    out = io.StringIO()
    write(Table(found, ["case", "global_batch", "scaling_series"]), Format.MARKDOWN, out)
    assert "| two | 16 | weak |" in out.getvalue()
