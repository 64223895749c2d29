"""A price file: what a million samples cost by it, and one clear error for whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent

import jsonschema
import pytest
import yaml

from bench.results import prices
from bench.results.json_schema import prices_json_schema
from bench.results.prices import Price, Prices, cost_of
from bench.results.record import Device, Outcome
from bench.scenarios.errors import ScenarioError
from tests.builders import a_case, a_record, launches_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "prices.yaml"

ENTRY = """\
- instance: g5.xlarge
  device: NVIDIA A10G
  price_per_hour: 1.006
  currency: USD
  date: 2026-11-01
  source: price list
"""


def a_price(**changes: object) -> Price:
    given = {
        "instance": "box",
        "device": "Test CPU",
        "price_per_hour": 3.6,
        "currency": "USD",
        "date": "2026-11-01",
        "source": "price list",
    }
    return Price.model_validate(given | changes)


def a_file(folder: Path, entries: str = ENTRY, head: str = "schema: 1\n") -> Path:
    path = folder / "prices.yaml"
    path.write_text(f"{head}prices:\n{indent(dedent(entries), '  ')}", encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ScenarioError) as caught:
        prices.read(path)
    return str(caught.value)


class TestCost:
    def test_of_a_million_samples_is_the_hours_they_take_times_the_price(self) -> None:
        # A million samples at 10 a second take 1e5 s, that is 27.78 hours; 27.78 x 3.6 = 100.
        assert a_price().cost_per_million(10.0, devices=1) == pytest.approx(100.0)

    def test_is_that_of_the_whole_machine_unless_the_entry_says_how_many_devices_share_it(
        self,
    ) -> None:
        assert a_price().cost_per_million(10.0, devices=2) == pytest.approx(100.0)
        shared = a_price(devices=8)
        assert shared.cost_per_million(10.0, devices=2) == pytest.approx(25.0)
        assert shared.cost_per_million(10.0, devices=8) == pytest.approx(100.0)

    def test_follows_from_the_record_and_cites_machine_price_day_and_source(self) -> None:
        record = a_record(launches=launches_of(10.0))
        cost = cost_of(record, Prices("p", [a_price()]))
        assert cost is not None
        assert cost.per_million == pytest.approx(100.0)
        assert cost.currency == "USD"
        assert cost.source == "box at 3.6 USD an hour (2026-11-01, price list)"
        assert a_price(devices=8).citation == (
            "box at 3.6 USD an hour, shared among its 8 devices (2026-11-01, price list)"
        )

    def test_is_unknown_without_a_number_a_device_or_an_entry(self) -> None:
        given = Prices("p", [a_price(device="Other")])
        assert cost_of(a_record(), given) is None
        given = Prices("p", [a_price(device="*")])
        assert cost_of(a_record(outcome=Outcome.OOM), given) is None
        assert cost_of(a_record(device=None), given) is None
        assert cost_of(a_record(), given) is not None


class TestMatching:
    @pytest.mark.parametrize(
        ("pattern", "device", "found"),
        [
            ("Test CPU", "Test CPU", True),
            ("Test CPU", "Test CPU 2", False),
            ("Test*", "Test CPU", True),
            ("*CPU", "Test CPU", True),
            ("Test ?PU", "Test CPU", True),
            ("test cpu", "Test CPU", False),
            ("Intel(R) Xeon(R) [v2].*", "Intel(R) Xeon(R) [v2]. 8 CPUs", True),
            ("Intel(R) Xeon(R) [v2].*", "Intel(R) Xeon(R) v. 8 CPUs", False),
        ],
    )
    def test_a_device_is_named_in_full_or_by_a_pattern(
        self, pattern: str, device: str, found: bool
    ) -> None:
        price = a_price(device=pattern)
        assert price.applies(device=device, backend="cpu", devices=1) is found

    def test_a_backend_narrows_it_down(self) -> None:
        given = Prices("p", [a_price(instance="x", backend="xla"), a_price(backend="cpu")])
        found = given.of(device="Test CPU", backend="xla", devices=1)
        assert found is not None
        assert found.instance == "x"
        assert given.of(device="Test CPU", backend="cuda", devices=1) is None

    def test_a_machine_with_fewer_devices_than_the_run_used_is_not_the_one(self) -> None:
        given = Prices("p", [a_price(devices=4)])
        assert given.of(device="Test CPU", backend="cpu", devices=4) is not None
        assert given.of(device="Test CPU", backend="cpu", devices=5) is None

    def test_two_prices_for_one_device_are_refused_with_both_entries(self) -> None:
        given = Prices(
            "p.yaml", [a_price(), a_price(device="X"), a_price(instance="b", device="*")]
        )
        with pytest.raises(ScenarioError) as caught:
            given.of(device="Test CPU", backend="cpu", devices=2)
        assert str(caught.value) == (
            "p.yaml: prices[0] (box) and prices[2] (b): each gives a price for 'Test CPU' on cpu "
            "with 2 devices; keep one of them, or tell them apart by device or backend"
        )


class TestReading:
    def test_a_file_gives_its_prices(self, tmp_path: Path) -> None:
        found = prices.read(a_file(tmp_path))
        assert found.place == str(tmp_path / "prices.yaml")
        assert [(p.instance, p.price_per_hour, p.devices) for p in found.prices] == [
            ("g5.xlarge", 1.006, None)
        ]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("1.006", "-1"), "prices[0].price_per_hour (g5.xlarge): -1 must be greater than 0"),
            (("1.006", "'1'"), "prices[0].price_per_hour (g5.xlarge): '1' must be a number"),
            (
                ("USD", "dollar"),
                "prices[0].currency (g5.xlarge): 'dollar': not a currency's three capital letters, "
                "as in USD",
            ),
            (
                ("2026-11-01", "yesterday"),
                "prices[0].date (g5.xlarge): 'yesterday': not a day, as in 2026-11-20",
            ),
            (
                ("2026-11-01", "2026-02-30"),
                "prices[0].date (g5.xlarge): '2026-02-30': the calendar has no such day",
            ),
            (
                ("  source: price list\n", ""),
                "prices[0].source (g5.xlarge): is missing; add it",
            ),
            (
                ("currency", "curency"),
                "prices[0].curency (g5.xlarge): unknown key curency; did you mean currency?",
            ),
            (("g5.xlarge", '""'), "prices[0].instance: '' must not be empty"),
            (
                ("price list", "price list\n  devices: 0"),
                "prices[0].devices (g5.xlarge): 0 must be greater than or equal to 1",
            ),
        ],
    )
    def test_a_wrong_entry_is_named_with_its_value_and_the_remedy(
        self, tmp_path: Path, change: tuple[str, str], message: str
    ) -> None:
        path = a_file(tmp_path, ENTRY.replace(*change))
        assert message in refusal(path)
        assert refusal(path).startswith(str(path))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty; start with schema: 1"),
            ("prices: []", "schema: is missing; write schema: 1 at the top"),
            ("schema: 2\nprices: []", "schema: 2 is newer than what this version reads (1)"),
            ("schema: 1", "prices: is missing; add it"),
            ("schema: 1\nprices: []", "prices: holds no price: add an entry with instance,"),
            ("schema: 1\nprices: {a: 1}", "prices: {'a': 1} must be a list"),
            ("schema: 1\nprices: [3]", "prices[0]: 3 "),
            ("- a", "holds a list where a mapping belongs"),
            ("schema: 1\nprices:\n\t- a", "line 3, column 1: a tab cannot stand here"),
            ("schema: 1\nprices: &a [*a]", "line 2, column 13: aliases"),
        ],
    )
    def test_a_file_that_is_none_is_said_so(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "prices.yaml"
        path.write_text(text, encoding="utf-8")
        assert refusal(path).startswith(f"{path}: {message}")

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        assert refusal(tmp_path / "nowhere.yaml").endswith("nowhere.yaml: there is no such file")
        assert "is a folder" in refusal(tmp_path)

    def test_several_problems_are_listed_together(self, tmp_path: Path) -> None:
        wrong = ENTRY.replace("USD", "dollar").replace("1.006", "0")
        lines = refusal(a_file(tmp_path, wrong)).splitlines()
        assert lines[0].endswith("2 problems")
        assert len(lines) == 3


def test_the_example_is_one_and_fits_the_schema() -> None:
    found = prices.read(EXAMPLE)
    assert {price.currency for price in found.prices} == {"EUR", "USD"}
    schema = prices_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    document = yaml.load(EXAMPLE.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506
    for entry in document["prices"]:
        entry["price_per_hour"] = float(entry["price_per_hour"])
        if "devices" in entry:
            entry["devices"] = int(entry["devices"])
    jsonschema.validate(document | {"schema": 1}, schema)


@pytest.mark.parametrize("change", [{"currency": "usd"}, {"price_per_hour": 0}, {"typo": 1}])
def test_the_schema_refuses_what_the_model_refuses(change: dict[str, object]) -> None:
    entry = a_price().model_dump(mode="json", exclude_none=True) | change
    validator = jsonschema.Draft202012Validator(prices_json_schema())
    assert list(validator.iter_errors({"schema": 1, "prices": [entry]}))
    assert list(validator.iter_errors({"schema": 1, "prices": []}))


def test_a_price_is_found_for_a_run_of_several_processes() -> None:
    record = a_record(
        a_case(knobs={"processes": 2}),
        launches=launches_of(20.0),
        device=Device(model="Test CPU", count=1),
    )
    cost = cost_of(record, Prices("p", [a_price(devices=4)]))
    assert cost is not None
    # Half of the machine, and twice as fast as in the first test: 100 / 2 / 2.
    assert cost.per_million == pytest.approx(25.0)
