"""The commands that only read: what they print, and that none of them ever imports torch."""

from __future__ import annotations

import re

import jsonschema
import orjson
import pytest

from bench import __version__
from bench.results.record import Check, CheckResult
from bench.results.store import Store
from bench.scenarios import compose
from tests.builders import PASSED, a_launch, a_record
from tests.run.driver import Bench

HEAVY = {"torch", "timm", "torchvision", "torch_xla"}


def imported(stderr: str) -> set[str]:
    """Return the top-level modules that `-X importtime` saw."""
    names = re.findall(r"^import time:.*\|\s+([\w.]+)$", stderr, flags=re.MULTILINE)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "compare|run"),
        (["--version"], rf"accelbench {re.escape(__version__)}"),
        (["list", "scenarios"], "vit-ladder"),
        (["list", "backends"], "toy"),
        (["show", "quick"], "amp-bf16"),
        (["show", "kept"], "fence_waits"),
        (["schema"], "batch_size"),
        (["table"], "samples/s"),
        (["table", "--with", "published"], "claimed"),
        (["doctor", "--backend", "toy"], "Toy One"),
    ],
)
def test_it_answers_without_torch(bench: Bench, arguments: list[str], expected: str) -> None:
    Store(bench.results).append(a_record(id="kept"))
    finished = bench(*arguments, command=("-X", "importtime", "-m", "bench"))
    assert finished.code == 0, finished.stderr
    assert re.search(expected, finished.stdout), finished.stdout
    modules = imported(finished.stderr)
    assert "bench" in modules
    assert modules & HEAVY == set()


def test_the_shipped_scenarios_are_listed_with_their_questions(bench: Bench) -> None:
    rows = orjson.loads(bench("list", "scenarios", "--format", "json").stdout)["rows"]
    assert [(row["name"], row["description"]) for row in rows] == [
        (item.name, item.description) for item in compose.shipped()
    ]


@pytest.mark.parametrize("document", ["scenario", "record", "publication", "prices"])
def test_each_schema_is_one(bench: Bench, document: str) -> None:
    schema = orjson.loads(bench("schema", document).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    if document == "record":
        jsonschema.validate(a_record().model_dump(mode="json", by_alias=True), schema)


def test_a_record_is_shown_by_its_id_its_beginning_or_its_path(bench: Bench) -> None:
    path = Store(bench.results).append(a_record(id="01abcdef"))
    pages = {bench("show", reference).stdout for reference in ("01abcdef", "01ab", str(path))}
    assert all("fence_waits" in page and "01abcdef" in page for page in pages)


def test_a_check_that_this_version_does_not_know_is_shown_without_its_explanation(
    bench: Bench,
) -> None:
    unknown = Check(name="moon_[phase]", result=CheckResult.FAIL, evidence="it was full")
    launches = [
        a_launch(index=0, audit=[*PASSED]),
        a_launch(index=1, audit=[unknown, *PASSED]),
    ]
    Store(bench.results).append(a_record(id="newer", launches=launches))
    finished = bench("show", "newer")
    assert finished.code == 0, finished.stderr
    told = " ".join(finished.stdout.split())
    assert "this may not be so: `moon_[phase]` failed." in told
    audit = finished.stdout.partition("\nAudit\n")[2].partition("\nLaunch 0\n")[0]
    assert [line.strip() for line in audit.splitlines() if line.strip()] == [
        "failed: moon_[phase] (in 1 of 2 launches)",
        "it was full",
        "passed: 1",
        "fence_waits  0.1 % of the window",
    ]
    assert "must hold This version does not know the check: another version wrote" in told


def test_claims_are_shown_alone_where_nothing_was_measured_yet(bench: Bench) -> None:
    finished = bench("table", "--with", "published", "--format", "json")
    assert finished.code == 0, finished.stderr
    assert {row["verdict"] for row in finished.rows} == {"claimed"}
    assert not bench.results.exists()


def test_where_and_columns_choose_rows_and_columns(bench: Bench) -> None:
    store = Store(bench.results)
    for position, case in enumerate(("one", "two")):
        store.append(a_record(case, position=position))
    (row,) = bench("table", "--where", "case=two", "--format", "json").rows
    assert row["case"] == "two"
    written = bench("table", "--columns", "case,batch_size", "--format", "csv").stdout
    assert written.splitlines()[0] == "case,batch_size"
    assert len(written.splitlines()) == 3
