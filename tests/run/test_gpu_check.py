"""The check for whoever has a GPU: what it holds figures against, and that it runs to its end."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.results.store import Store
from bench.scenarios.compose import load

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
REPORT = '<testsuites><testsuite tests="{}" failures="{}" errors="0" skipped="{}"/></testsuites>'


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_bounds")


def a_row(case: str = "compiled", **changes: Any) -> dict[str, Any]:
    row = {
        "case": case,
        "outcome": "ok",
        "reason": None,
        "verdict": "measured",
        "verdict_reason": None,
        "learns": True,
        "health_reason": None,
        "samples_per_s": 100.0,
        "mfu": 0.5,
        "mfu_source": "989 TFLOP/s of NVIDIA H200 in bf16",
        "settings": "precision=amp-bf16 compile=inductor",
    }
    return row | changes


@pytest.mark.parametrize(
    ("counts", "code", "holds"),
    [
        ((20, 0, 4), 0, True),
        ((20, 1, 0), 1, False),
        # Nothing ran: that is no proof.
        ((20, 0, 20), 0, False),
        ((20, 0, 4), 2, False),
    ],
)
def test_tests_hold_where_some_ran_and_none_failed(
    bounds: ModuleType, counts: tuple[int, int, int], code: int, holds: bool
) -> None:
    assert bounds.tests_pass(REPORT.format(*counts), code).holds is holds


REFUSED = {"outcome": "unsupported", "verdict": None, "learns": None, "reason": "no float8 here"}


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({}, 0, None),
        ({"verdict": "noisy"}, 0, None),
        ({"verdict": "suspect", "verdict_reason": "as_asked: fp32 ran"}, 0, "as_asked: fp32 ran"),
        (
            {"outcome": "oom", "verdict": None, "learns": None, "reason": "80 GiB are not enough"},
            4,
            "oom: 80 GiB are not enough",
        ),
        (
            {"learns": False, "health_reason": "its loss stands still"},
            0,
            "does not learn: its loss stands still",
        ),
        # What cannot be told was not shown.
        (
            {"learns": None, "health_reason": "the health pass ran out of time"},
            0,
            "is not known to learn: the health pass ran out of time",
        ),
        ({"learns": None}, 0, "is not known to learn: it was not looked at"),
        # The device could, and something is missing or the batch does not fit.
        (REFUSED, 0, "unsupported: no float8 here"),
    ],
)
def test_rows_hold_where_all_are_measured_and_learn(
    bounds: ModuleType, changes: dict[str, Any], code: int, told: str | None
) -> None:
    rows = [a_row("other"), a_row(**changes)]
    found = bounds.rows_can_be_believed("ladder", bounds.Ran(rows, code))
    assert found.holds is (told is None)
    measured = sum(row["outcome"] == "ok" for row in rows)
    figures = f"{measured} of 2 cases measured, exit code {code}"
    assert found.figures == (figures if told is None else f"{figures}; compiled: {told}")


def test_rows_of_a_command_that_failed_do_not_hold(bounds: ModuleType) -> None:
    assert not bounds.rows_can_be_believed("ladder", bounds.Ran([a_row()], 4)).holds


def test_a_case_that_no_such_device_runs_is_named_and_no_fault(bounds: ModuleType) -> None:
    rows = [a_row(), a_row("fp8", **REFUSED)]
    found = bounds.rows_can_be_believed("ladder", bounds.Ran(rows, 0, {"fp8", "tf32"}))
    assert found.holds
    assert found.figures == "1 of 2 cases measured, exit code 0; no such device runs fp8"
    # All refused: nothing was measured.
    assert not bounds.rows_can_be_believed("ladder", bounds.Ran(rows[1:], 0, {"fp8"})).holds
    failed = [a_row(), a_row("fp8", **{**REFUSED, "outcome": "crash"})]
    assert not bounds.rows_can_be_believed("ladder", bounds.Ran(failed, 0, {"fp8"})).holds


def test_rows_that_were_not_to_be_looked_at_for_learning_hold_and_say_so(
    bounds: ModuleType,
) -> None:
    ran = bounds.Ran([a_row(learns=None)], 0, unwatched="measure.health=false")
    found = bounds.rows_can_be_believed("ladder", ran)
    assert found.holds
    assert found.figures.endswith("whether they learn was not looked at (measure.health=false)")
    assert bounds.enough_of_the_peak(ran).holds
    idle = bounds.Ran([a_row(learns=False)], 0, unwatched="measure.health=false")
    assert not bounds.rows_can_be_believed("ladder", idle).holds


@pytest.mark.parametrize(
    ("ratios", "holds"),
    [
        ([1.0, 0.99, 1.01, 1.005, 0.995, 1.0], True),
        ([0.9, 0.91, 0.9, 0.9, 0.9, 0.9], False),
        # Five pairs enclose no median with 95 % confidence.
        ([1.0] * 5, False),
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.1], False),
    ],
)
def test_the_harness_holds_beside_the_loop_where_the_interval_does(
    bounds: ModuleType, ratios: list[float], holds: bool
) -> None:
    found = bounds.beside([200 * ratio for ratio in ratios], [200.0] * len(ratios), [])
    assert found.holds is holds
    assert f"over {len(ratios)} pairs" in found.figures


def test_a_suspect_launch_of_the_harness_shows_nothing(bounds: ModuleType) -> None:
    doubts = ["fence_waits", "steady_state", "fence_waits"]
    found = bounds.beside([200.0] * 6, [200.0] * 6, doubts)
    assert not found.holds
    assert found.figures == (
        "1.000 [1.000, 1.000] over 6 pairs; fence_waits failed 2 times; steady_state failed 1 times"
    )


class TestPeak:
    @pytest.mark.parametrize(("mfu", "holds"), [(0.45, True), (0.4499, False), (None, False)])
    def test_it_takes_45_percent(self, bounds: ModuleType, mfu: float | None, holds: bool) -> None:
        assert bounds.enough_of_the_peak(bounds.Ran([a_row(mfu=mfu)], 0)).holds is holds

    def test_only_compiled_amp_bf16_that_can_be_believed_counts(self, bounds: ModuleType) -> None:
        rows = [
            a_row("bf16", settings="precision=bf16 compile=inductor", mfu=0.9),
            a_row("eager", settings="precision=amp-bf16", mfu=0.8),
            a_row("lie", verdict="suspect", mfu=0.7),
            a_row("idle", learns=False, mfu=0.6),
            a_row("unknown", learns=None, mfu=0.6),
            a_row("slow", mfu=0.3),
            a_row("best", mfu=0.4),
        ]
        ran = bounds.Ran(rows, 0)
        assert bounds.best_compiled(ran)["case"] == "best"
        found = bounds.enough_of_the_peak(ran)
        assert not found.holds
        assert found.figures == "40.0% of 989 TFLOP/s of NVIDIA H200 in bf16 (best)"
        assert str(found).startswith("MISSED  amp-bf16, compiled, uses 45% of the dense")

    def test_looked_into_is_the_one_that_uses_most_of_it_else_the_fastest(
        self, bounds: ModuleType
    ) -> None:
        rows = [
            a_row("eager", settings="precision=amp-bf16", samples_per_s=900.0, mfu=None),
            a_row("slow", samples_per_s=50.0, mfu=None),
            a_row("fast", samples_per_s=80.0, mfu=None),
            a_row("none", outcome="oom", verdict=None, samples_per_s=None, mfu=None),
        ]
        most = a_row("most", samples_per_s=70.0)
        assert bounds.to_profile(bounds.Ran(rows, 0))["case"] == "fast"
        assert bounds.to_profile(bounds.Ran([*rows, most], 0))["case"] == "most"
        assert bounds.to_profile(bounds.Ran([rows[0], rows[3]], 0)) is None


def test_the_gain_is_over_the_loop_and_never_of_a_suspect(bounds: ModuleType) -> None:
    lie = a_row("lie", verdict="suspect", samples_per_s=900.0)
    ran = bounds.Ran([lie, a_row(samples_per_s=300.0)], 0)
    assert bounds.gain(ran, [100.0, 400.0]) == "best rung: compiled, 1.50 times the loop's rate"
    assert "no rung can be believed" in bounds.gain(bounds.Ran([lie], 0), [100.0])


@pytest.mark.parametrize("learns", [False, None])
def test_a_rung_that_is_not_known_to_learn_is_left_out_of_the_gain_and_named(
    bounds: ModuleType, learns: bool | None
) -> None:
    idle = a_row("idle", learns=learns, samples_per_s=900.0)
    other = a_row(samples_per_s=300.0)
    assert bounds.gain(bounds.Ran([idle, other], 0), [200.0]) == (
        "best rung: compiled, 1.50 times the loop's rate "
        "(left out, as they are not known to learn: idle)"
    )
    assert bounds.gain(bounds.Ran([idle], 0), [200.0]) == (
        "no rung can be believed, so none is held against the loop "
        "(left out, as they are not known to learn: idle)"
    )
    trained = bounds.Ran([idle | {"learns": True}, other], 0)
    assert bounds.gain(trained, [200.0]) == "best rung: idle, 4.50 times the loop's rate"


def test_its_rungs_are_a_scenario_that_does_the_same_work_everywhere() -> None:
    scenario = load(str(BENCHMARKS / "gpu_rungs.yaml"))
    assert scenario.model == "vit_base_patch16_224"
    changed = {key for case in scenario.cases for key in case.set}
    assert changed == {
        "precision",
        "compile",
        "compile_mode",
        "channels_last",
        "optimizer_impl",
    }


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_it_runs_to_its_end_with_a_tiny_model_on_the_cpu(tmp_path: Path) -> None:
    results = tmp_path / "recorded"
    command = [
        *(sys.executable, str(BENCHMARKS / "gpu_check.py"), "--backend", "cpu"),
        *("--model", "small-vit", "--batch-size", "16", "--results", str(results)),
        *("--launches", "1", "--seconds", "0.3", "--skip", "beside"),
        *("--rung", "baseline", "--rung", "batch-size"),
        *("--rung", "amp-bf16", "--rung", "compiled", "--rung", "tf32"),
        *("--set", "measure.health=false", "--set", "threads=1"),
        *("--tests", "tests/backends/test_cpu_device.py"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 1, done.stderr
    told = done.stdout
    [file] = results.glob("gpu-check-*.txt")
    assert file.read_text(encoding="utf-8") == told
    assert "options: --backend cpu --model small-vit" in told
    assert str(tmp_path) not in told
    assert "no such device runs tf32" in told
    assert "whether they learn was not looked at (measure.health=false)" in told
    assert "holds   the tests of the device pass" in told
    assert "not run beside: --skip" in told
    # No processor is in the table of peaks.
    assert "no such row that can be believed has an MFU" in told
    assert "profile of 5 steps of compiled: the device computed in" in told
    records = [stored.record for stored in Store(results).records()]
    named = {(record.requested.scenario, record.requested.case) for record in records}
    assert {("gpu-rungs", "amp-bf16"), ("gpu-rungs", "tf32")} <= named
    assert {("vit-ladder", "baseline"), ("vit-ladder", "batch-size")} <= named
    baseline, small = (
        next(r.requested.knobs for r in records if r.requested.case == case)
        for case in ("baseline", "batch-size")
    )
    assert (baseline.batch_size, small.batch_size) == (16, 8)
    [trace] = results.glob("trace-*.json.gz")
    assert trace.stat().st_size > 1000
