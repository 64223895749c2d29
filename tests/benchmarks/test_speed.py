"""How fast the command line answers. Run by name; no part of the suite that passes or fails.

    pytest tests/benchmarks

The promises, for a quiet machine: `bench --help` in 0.4 s, and a table of 10,000 records in 3 s.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.results.record import Clocks, Energy, Health, Peak
from bench.results.store import new_id
from tests.builders import MORNING, PASSED, a_case, a_launch, a_record

RECORDS = 10_000
CASES = 40
HELP_S = 0.4
TABLE_S = 3.0


@pytest.fixture(scope="session")
def many_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder of as many sessions of 40 cases as make 10,000 records."""
    root = tmp_path_factory.mktemp("results")
    documents = [_document(position) for position in range(CASES)]
    for number in range(RECORDS):
        session, position = divmod(number, CASES)
        created = MORNING + dt.timedelta(hours=6 * session, seconds=position)
        folder = root / "runs" / created.strftime("%Y/%m/%d")
        folder.mkdir(parents=True, exist_ok=True)
        document = documents[position] | {
            "id": new_id(created),
            "created": created.isoformat(),
            "session": f"session-{session}",
        }
        name = f"{created:%Y%m%dT%H%M%SZ}-{document['id']}.json"
        (folder / name).write_bytes(orjson.dumps(document))
    return root


def test_help_answers_at_once(benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(_run, args=(["-m", "bench", "--help"],), rounds=5, warmup_rounds=1)
    assert benchmark.stats.stats.median <= HELP_S


@pytest.mark.parametrize("format", ["json", "rich", "csv"])
def test_a_table_of_ten_thousand_records(
    benchmark: BenchmarkFixture,
    many_records: Path,
    format: str,  # noqa: A002
) -> None:
    command = ["-m", "bench", "table", str(many_records), "--format", format]
    output = benchmark.pedantic(_run, args=(command,), rounds=3, warmup_rounds=1)
    assert benchmark.stats.stats.median <= TABLE_S
    if format == "json":
        assert len(orjson.loads(output)["rows"]) == CASES


def test_the_same_table_without_the_command_line(
    benchmark: BenchmarkFixture, many_records: Path
) -> None:
    code = (
        "import sys, pathlib; from bench.results.table import read, write, Format;"
        "write(read([pathlib.Path(sys.argv[1])]), Format.RICH, sys.stdout, width=120)"
    )
    command = ["-c", code, str(many_records)]
    output = benchmark.pedantic(_run, args=(command,), rounds=3, warmup_rounds=1)
    assert output.count(b"measured") == CASES
    assert benchmark.stats.stats.median <= TABLE_S


def _run(arguments: list[str]) -> bytes:
    return subprocess.run([sys.executable, *arguments], capture_output=True, check=True).stdout


def _document(position: int) -> dict[str, object]:
    case = a_case(f"case-{position}", knobs={"batch_size": position + 1})
    launches = [
        a_launch(
            index=index,
            window_s=[[1.0123456789 + 0.001 * window for window in range(10)]],
            audit=PASSED * 20,
            fence_residual_s=[0.000123456] * 10,
            compile_s=12.3456,
            actual={"engine": "plain", "world": 1, "precision": "fp32", "threads": 2},
            memory_window_bytes=[2**30] * 10,
            energy=Energy(joules=123.456, seconds=10.2, source="a counter"),
            clocks=Clocks(source="a counter", mhz_min=1000.0, mhz_max=2000.0),
            flops_per_sample=7.464e9,
            peak=Peak(flops_per_s=1e13, dtype="fp32", device="Test CPU", source="its data sheet"),
        )
        for index in range(3)
    ]
    health = Health(steps=10, loss_first=6.9, loss_last=2.3, loss_gap=0.01, learns=True)
    record = a_record(case, launches=launches, position=position, health=health)
    document: dict[str, object] = record.model_dump(mode="json", by_alias=True)
    return document
