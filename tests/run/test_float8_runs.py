"""Whole runs in float8 on the CPU: refused, and where it is emulated never taken for a number."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bench.backends.cpu import EMULATE_VARIABLE
from bench.results.record import Outcome, Record, Verdict
from tests.run.driver import Bench, Finished

pytestmark = pytest.mark.torch

HEAD = """\
schema: 1
name: {name}
model: vit_tiny_patch16_224
model_kwargs: {{ patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2 }}
image_size: 32
classes: 10
batch_size: 16
threads: 1
data: {{ source: cached }}
measure: {{ launches: 1, budget_s: 0.6, windows: 3, warmup_s: 0.2, health_steps: 3 }}
"""
CASES = """\
cases:
  - case: tensorwise
    set: { precision: fp8-tensorwise }
  - case: odd batch
    set: { precision: fp8-rowwise, batch_size: 8 }
"""


def run(folder: Path, **environment: str) -> tuple[Finished, dict[str, Record]]:
    bench = Bench(folder)
    finished = bench.start(
        *("run", bench.scenario("float8", CASES, HEAD), "--backend", "cpu", "--format", "json"),
        environment=environment,
    ).wait()
    return finished, {record.requested.case: record for record in bench.records()}


def test_no_processor_multiplies_float8(tmp_path: Path) -> None:
    finished, records = run(tmp_path)
    assert finished.code == 0, finished.stderr
    for record in records.values():
        assert record.outcome is Outcome.UNSUPPORTED
        assert "no processor multiplies float8" in (record.reason or "")


@pytest.mark.skipif(
    importlib.util.find_spec("torchao") is not None, reason="torchao is installed here"
)
def test_where_nothing_is_there_to_emulate_it_that_is_a_refusal_and_no_crash(
    tmp_path: Path,
) -> None:
    finished, records = run(tmp_path, **{EMULATE_VARIABLE: "1"})
    assert finished.code == 0, finished.stderr
    for record in records.values():
        assert record.outcome is Outcome.UNSUPPORTED
        assert 'pip install "accelbench[fp8]"' in (record.reason or "")


@pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None,
    reason='torchao is not installed: pip install "accelbench[fp8]"',
)
def test_an_emulated_row_says_so_is_suspect_and_sizes_are_looked_at_before_it_runs(
    tmp_path: Path,
) -> None:
    finished, records = run(tmp_path, **{EMULATE_VARIABLE: "1"})
    assert finished.code == 0, finished.stderr
    row = finished.row("tensorwise")
    assert row["verdict"] == "suspect"
    emulated = records["tensorwise"]
    assert emulated.verdict is Verdict.SUSPECT
    assert "fp8-tensorwise (emulated)" in (emulated.verdict_reason or "")
    assert emulated.launches[0].actual["float8_layers"] == 8
    assert emulated.health is not None
    assert emulated.health.learns
    refused = records["odd batch"]
    assert refused.outcome is Outcome.UNSUPPORTED
    assert refused.launches == []
    reason = refused.reason or ""
    assert "blocks.0.attn.qkv multiplies 136 x 64 by 64 x 192" in reason
    assert "set batch_size to a multiple of 16" in reason
