"""Every kind of record that is written validates against the schema that is exported."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import orjson
import pytest

from bench.results.json_schema import publication_json_schema, record_json_schema
from bench.results.record import (
    Check,
    CheckResult,
    Clocks,
    Device,
    Energy,
    Health,
    Inspection,
    Launch,
    Outcome,
    Peak,
    Phase,
    Record,
    Verdict,
    Weight,
)
from bench.results.store import Store
from tests.builders import a_case, a_launch, a_record, launches_of

PUBLISHED = Path(__file__).parents[2] / "results" / "published"

RECORDS = {
    "fixed launches": a_record(),
    "one launch": a_record(launches=launches_of(10.0)),
    "two ranks": a_record(
        a_case(knobs={"processes": 2}), launches=[a_launch(window_s=[[1.0, 1.1], [1.2, 1.0]])]
    ),
    "precision target": a_record(a_case(measure={"precision_target": 2.0})),
    "suspect": a_record(
        verdict=Verdict.SUSPECT,
        verdict_reason="fence_waits failed",
        launches=[
            a_launch(audit=[Check(name="fence_waits", result=CheckResult.FAIL, evidence="9 %")])
        ],
    ),
    "everything known": a_record(
        launches=[
            a_launch(
                compile_s=3.5,
                cache="cold",
                peak_memory_bytes=2**30,
                loader_wait_share=0.2,
                executions=30,
                expected_executions=30,
                fallbacks={"aten::nonzero": 2},
                actual={"engine": "plain", "threads": 2, "precision": None},
            )
        ],
        device=Device(model="Test", count=2, flavour="CPU"),
    ),
    "what it used and whether it learns": a_record(
        launches=[
            a_launch(
                energy=Energy(joules=1.5, seconds=2.0, source="a counter"),
                clocks=Clocks(source="a driver", mhz_min=1.0, mhz_max=2.0, throttled=["heat"]),
                inspection=Inspection(matmul_types={"bf16": 39}, skipped=["nothing"]),
                flops_per_sample=5e9,
                peak=Peak(flops_per_s=1e12, dtype="bf16", device="H1", source="its data sheet"),
                memory_window_bytes=[1, 2],
                audit=[
                    Check(name=w.value, result=CheckResult.FAIL, evidence="9 %", weight=w)
                    for w in Weight
                ],
            ),
            a_launch(index=1, energy=Energy(reason="no counter")),
        ],
        health=Health(steps=10, loss_gap=0.1, learns=False, reason="it stood still"),
    ),
    **{
        outcome.value: a_record(
            outcome=outcome,
            phase=Phase.MEASURE,
            reason="it ended",
            remedy="try again",
            log_tail="line 1\nline 2",
            device=None,
        )
        for outcome in Outcome
        if outcome is not Outcome.OK
    },
}


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = record_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS.keys())
def test_a_written_record_validates(
    record: Record, validator: jsonschema.Draft202012Validator, tmp_path: Path
) -> None:
    path = Store(tmp_path).append(record)
    validator.validate(orjson.loads(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"schema": 2}, "schema"),
        ({"outcome": "splendid"}, "outcome"),
        ({"backend": None}, "backend"),
        ({"surprise": 1}, None),
        ({"launches": [{}]}, "launches"),
        ({"created": "2026-11-20T08:00:00+09:00"}, "created"),
        ({"created": "yesterday"}, "created"),
    ],
)
def test_the_schema_refuses_what_is_no_record(
    change: dict[str, object],
    path: str | None,
    validator: jsonschema.Draft202012Validator,
) -> None:
    document = a_record().model_dump(mode="json", by_alias=True) | change
    errors = list(validator.iter_errors(document))
    assert errors
    assert path is None or path in {str(error.path[0]) for error in errors if error.path}


@pytest.mark.parametrize("time", ["2026-11-20 08:00:00", "2026-11-20T08:00:00", "20261120T080000Z"])
def test_a_launch_starts_at_a_time_in_utc(time: str) -> None:
    document = a_launch().model_dump(mode="json")
    for written in ("2026-11-20T08:00:00Z", "2026-11-20T08:00:00.123+00:00"):
        assert Launch.model_validate_json(orjson.dumps(document | {"started": written}))
    with pytest.raises(ValueError, match=r"started\n.*not a time in UTC"):
        Launch.model_validate_json(orjson.dumps(document | {"started": time}))


def test_the_shipped_publications_validate() -> None:
    files = sorted(PUBLISHED.glob("*.json"))
    assert files
    schema = publication_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for file in files:
        jsonschema.Draft202012Validator(schema).validate(orjson.loads(file.read_bytes()))
