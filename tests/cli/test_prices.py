"""`--prices FILE` from end to end: the costs, their source, and one clear error."""

from __future__ import annotations

import jsonschema
import orjson
import pytest

from bench.results.store import Store
from tests.builders import a_record, launches_of
from tests.run.driver import Bench

PRICES = """\
schema: 1
prices:
  - instance: box
    device: "*"
    price_per_hour: 3.6
    currency: USD
    date: 2026-11-01
    source: price list
"""
SECOND = PRICES.partition("prices:\n")[2].replace("box", "crate")


@pytest.fixture
def priced(bench: Bench) -> Bench:
    """Return the command beside a price file and one record of 10 samples/s."""
    (bench.cwd / "prices.yaml").write_text(PRICES, encoding="utf-8")
    Store(bench.results).append(a_record(id="kept", launches=launches_of(10.0)))
    return bench


def refused(bench: Bench, *arguments: str) -> str:
    finished = bench(*arguments)
    assert finished.code == 2, finished.stderr
    assert finished.stdout == ""
    (message,) = finished.complaints
    assert "Traceback" not in finished.stderr
    return message.removeprefix("bench: ")


def test_a_table_has_what_a_million_samples_cost_and_cites_it(priced: Bench) -> None:
    (row,) = priced("table", "--prices", "prices.yaml", "--format", "json").rows
    assert row["cost_per_million_samples"] == pytest.approx(100.0)
    assert row["currency"] == "USD"
    text = priced("table", "--prices", "prices.yaml").stdout
    assert "100.0 USD" in text
    assert "box at 3.6 USD an hour (2026-11-01, price list)" in text
    (row,) = priced("table", "--format", "json").rows
    assert row["cost_per_million_samples"] is None


def test_a_page_has_it_too(priced: Bench) -> None:
    text = priced("show", "kept", "--prices", "prices.yaml").stdout
    assert "100.0 USD a million samples: box at 3.6 USD an hour" in text
    assert "give a price file with --prices" in priced("show", "kept").stdout


@pytest.mark.torch
def test_a_run_has_it_in_its_table(priced: Bench) -> None:
    finished = priced.run(priced.scenario("mine"), "--prices", "prices.yaml")
    assert finished.code == 0, finished.stderr
    (row,) = finished.rows
    hours = 1e6 / row["samples_per_s"] / 3600
    assert row["cost_per_million_samples"] == pytest.approx(3.6 * hours)


@pytest.mark.parametrize(
    "arguments",
    [
        ("table",),
        ("show", "kept"),
        ("run", "mine.yaml", "--backend", "toy"),
        ("run", "mine.yaml", "--backend", "toy", "--dry-run"),
    ],
)
def test_two_prices_for_one_device_are_refused_before_anything_runs(
    priced: Bench, arguments: tuple[str, ...]
) -> None:
    priced.scenario("mine")
    (priced.cwd / "prices.yaml").write_text(PRICES + SECOND, encoding="utf-8")
    before = priced.files()
    said = refused(priced, *arguments, "--prices", "prices.yaml")
    assert said.startswith("prices.yaml: prices[0] (box) and prices[1] (crate): each gives a price")
    assert said.endswith("keep one of them, or tell them apart by device or backend")
    assert priced.files() == before


@pytest.mark.parametrize("arguments", [("table",), ("show", "kept"), ("run", "mine.yaml")])
def test_a_price_file_that_is_none_is_refused_with_its_place(
    priced: Bench, arguments: tuple[str, ...]
) -> None:
    priced.scenario("mine")
    (priced.cwd / "wrong.yaml").write_text(PRICES.replace("3.6", "dear"), encoding="utf-8")
    assert refused(priced, *arguments, "--prices", "wrong.yaml") == (
        "wrong.yaml: prices[0].price_per_hour (box): 'dear' must be a number"
    )
    assert refused(priced, *arguments, "--prices", "nowhere.yaml") == (
        "nowhere.yaml: there is no such file"
    )


def test_a_scenario_costs_nothing_yet(priced: Bench) -> None:
    said = refused(priced, "show", "quick", "--prices", "prices.yaml")
    assert said == "--prices: quick is a scenario and has cost nothing yet; leave it out"


def test_the_schema_of_a_price_file_is_one(bench: Bench) -> None:
    schema = orjson.loads(bench("schema", "prices").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    entry = {
        "instance": "box",
        "device": "*",
        "price_per_hour": 3.6,
        "currency": "USD",
        "date": "2026-11-01",
        "source": "price list",
    }
    jsonschema.validate({"schema": 1, "prices": [entry]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": 1, "prices": [entry | {"currency": "dollar"}]}, schema)
