"""A record that an older version wrote is read as it is: what it does not hold is unknown."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import jsonschema
import orjson
import pytest

from bench.cli.record_page import write_page
from bench.results.json_schema import record_json_schema
from bench.results.record import Weight
from bench.results.store import Store, load
from bench.results.table import Format, read, write

OLD = sorted((Path(__file__).parent / "old").glob("*.json"))


@pytest.fixture(params=OLD, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder that holds one such record."""
    shutil.copy(request.param, tmp_path)
    return tmp_path


def test_there_is_one_of_the_first_measurement_version() -> None:
    assert OLD[0].stem == "measurement-1"


def test_it_has_a_row_with_its_number_and_nulls(old: Path) -> None:
    table = read([old])
    assert table.problems == []
    (row,) = table.rows
    # 24 samples in 2.40, 2.41 and 2.42 s: their geometric mean.
    assert row.samples_per_s == pytest.approx(24 / (2.40 * 2.41 * 2.42) ** (1 / 3))
    assert (row.verdict, row.audit) == ("measured", "pass")
    assert (row.learns, row.mfu, row.energy_j_per_sample, row.naive_ratio) == (None,) * 4


def test_its_checks_weigh_what_they_weighed_then(old: Path) -> None:
    (stored,) = Store(old).records()
    weights = {check.weight for launch in stored.record.launches for check in launch.audit}
    assert weights == {Weight.SUSPECT}


@pytest.mark.parametrize("format", list(Format))
def test_every_format_shows_it(old: Path, format: Format) -> None:  # noqa: A002
    out = io.StringIO()
    write(read([old]), format, out, width=120)
    assert "measured" in out.getvalue()


def test_its_page_says_what_it_does_not_hold(old: Path) -> None:
    (stored,) = Store(old).records()
    out = io.StringIO()
    write_page(stored, out, width=100)
    text = " ".join(out.getvalue().split())
    assert (
        "This number can be believed. It trains on cpu, Test CPU, at 9.959 samples a second" in text
    )
    assert "An older version measured it, whose audit knew fewer checks." in text
    assert "Would a naive clock have misled? Unknown." in text
    assert "Does it still learn? Unknown. The record does not tell." in text
    assert "energy unknown: an older version measured it, without energy" in text
    assert "measurement method 1" in text


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_what_it_becomes_validates_against_the_schema_of_today(path: Path) -> None:
    document = load(path).model_dump(mode="json", by_alias=True)
    jsonschema.validate(orjson.loads(orjson.dumps(document)), record_json_schema())
