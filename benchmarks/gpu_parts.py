"""The parts of `gpu_check.py`: each runs something and returns lines to print and bounds.

It decides nothing by itself: what a figure is held against is in `gpu_bounds`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_bounds
from gpu_bounds import Finding, Row
from sides import Workload, harness, script

from bench.backends.base import Probe
from bench.backends.registry import import_environment
from bench.results.record import Record
from bench.run import launching
from bench.run.plan import plan
from bench.scenarios.compose import load
from bench.scenarios.schema import Knobs
from bench.worker.job import Job

ROOT = Path(__file__).parents[1]
RUNGS = Path(__file__).with_name("gpu_rungs.yaml")
_MARKS = {"cuda": "cuda", "cpu": "torch"}
"""Of the tests that need the device."""
_DIFFERENCES = """\
What the two do differently, with the same model, batch, optimizer, autocast, layout and compiler
  waiting     the loop waits for the device after every step, as timm's script does, and the harness
              at the edges of a window; `loop, waiting once` is the loop without that.
  batches     the loop has one batch, the harness a pool that it goes through.
  convolution the loop lets cuDNN choose its kernel by timing, as timm's script does.
  type        autocast to bfloat16 on both sides; the script's default is fp16 without loss scaling.
  update      SGD with momentum 0.9 on both sides; the script's has Nesterov's momentum."""


class Failed(Exception):  # noqa: N818 - told with its reason
    """A part of the check gave no result."""


@dataclass(frozen=True)
class Check:
    """What is checked, and how long it may take."""

    backend: str
    workload: Workload
    batch_size: int
    results: Path
    rungs: list[str]
    """Names of cases to run, of the ladder and of ours; empty: all."""
    settings: list[str]
    """As after `bench run --set`."""
    tests: str
    launches: int
    seconds: float
    """Inside windows, per case."""
    pairs: int


def tests(check: Check) -> list[str | Finding]:
    """Run the tests that need the device."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", _MARKS[check.backend], check.tests]
        command.append(f"--junitxml={report}")
        # The summary alone goes to our own output.
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        if not report.exists():
            raise Failed(f"pytest ended with exit code {done.returncode} and without a report")
        return [gpu_bounds.tests_pass(report.read_text(encoding="utf-8"), done.returncode)]


def ladder(check: Check) -> list[str | Finding]:
    """Run the public ladder, its first rungs at our batch and the later ones at half of it."""
    half = max(1, check.batch_size // 2)
    settings = [f"batch_size={check.batch_size}", f"ladder[batch-size].set.batch_size={half}"]
    rows, code = _run(check, "vit-ladder", settings)
    return [*_table(rows), gpu_bounds.rows_can_be_believed("vit-ladder", rows, code)]


def beside(check: Check, probe: Probe) -> tuple[list[str | Finding], list[float]]:
    """Time timm's loop beside the harness, in turns; returns the loop's rates too."""
    workload = check.workload
    arguments: dict[str, object] = {
        "model": workload.model,
        "model-kwargs": json.dumps(workload.model_kwargs),
        "image-size": workload.image_size,
        "classes": workload.classes,
        "batch-size": check.batch_size,
        "device": "cuda" if check.backend == "cuda" else "cpu",
        "optimizer": "sgd",
    }
    flags = ["--amp", "--channels-last", "--compile"]
    settings = {
        **_model(workload),
        "batch_size": check.batch_size,
        "data": {"source": "device"},
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "precision": "amp-bf16",
        "channels_last": True,
        "compile": "inductor",
    }
    knobs = Knobs.model_validate(settings)
    loop: list[float] = []
    once: list[float] = []
    ours: list[float] = []

    def draw(number: int, into: list[float]) -> float:
        if into is ours:
            value = harness(probe, knobs, seconds=check.seconds, seed=number, number=number)
            for name in value.failed_checks:
                print(f"harness: audit check {name} failed", file=sys.stderr)
            return value.samples_per_s
        more = ["--wait-once"] if into is once else []
        found = script(
            "timm_style_loop.py", {**arguments, "seed": number}, flags=[*flags, *more], threads=None
        )
        return float(found["samples_per_s"])

    for number in range(check.pairs):
        order = (loop, ours, once) if number % 2 == 0 else (once, ours, loop)
        for into in order:
            into.append(draw(number, into))
    told = [
        f"{name:<20}{_rates(values)} samples/s"
        for name, values in (
            ("timm's loop", loop),
            ("loop, waiting once", once),
            ("harness", ours),
        )
    ]
    return [*told, _DIFFERENCES, gpu_bounds.beside(ours, loop)], loop


def rungs(check: Check, probe: Probe, loop: Sequence[float]) -> list[str | Finding]:
    """Run our own rungs, and profile the best compiled one where it uses too little of the peak."""
    rows, code = _run(check, str(RUNGS), [f"batch_size={check.batch_size}"])
    enough = gpu_bounds.enough_of_the_peak(rows)
    told: list[str | Finding] = list(_table(rows))
    if loop:
        told.append(gpu_bounds.gain(rows, loop))
    told += [gpu_bounds.rows_can_be_believed("gpu-rungs", rows, code), enough]
    if not enough.holds:
        best = gpu_bounds.best_compiled(rows)
        compiled = [row for row in rows if "compile=inductor" in row["settings"]]
        slowest = [row for row in compiled if row["outcome"] == "ok"]
        if chosen := best or (slowest[0] if slowest else None):
            told += _profile(check, probe, chosen)
    return told


def _run(check: Check, scenario: str, settings: Sequence[str]) -> tuple[list[Row], int]:
    """Run a scenario into the results folder; returns its rows and the exit code."""
    model = [f"{name}={json.dumps(value)}" for name, value in _model(check.workload).items()]
    budget = [f"measure.budget_s={check.seconds}", f"measure.launches={check.launches}"]
    command = [sys.executable, "-m", "bench", "run", scenario, "--backend", check.backend]
    for setting in [*model, *settings, *budget, *check.settings]:
        command += ["--set", setting]
    found = load(scenario)
    names = [*(rung.rung for rung in found.ladder), *(entry.case for entry in found.cases)]
    for case in check.rungs:
        command += ["--case", case] if case in names else []
    command += ["--results", str(check.results), "--format", "json"]
    done = subprocess.run(
        command,
        env={**os.environ, **import_environment()},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    try:
        return list(json.loads(done.stdout)["rows"]), done.returncode
    except json.JSONDecodeError as error:
        raise Failed(f"bench run {scenario} ended with {done.returncode}, without rows") from error


def _profile(check: Check, probe: Probe, row: Row) -> list[str]:
    """Profile a row's case; returns where its time goes, in words."""
    record = Record.model_validate_json(Path(row["record"]).read_bytes())
    [planned] = plan([record.requested], [probe], {})
    job = Job(
        case=record.requested,
        backend=check.backend,
        probe=probe,
        index=0,
        seed=0,
        session="profile",
        round=0,
        diagnose=False,
        cache="none",
        folder=str(check.results),
    )
    trace = check.results / f"trace-{record.id}.json.gz"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(job.model_dump_json(by_alias=True), encoding="utf-8")
        found: Any = script(
            "profile_steps.py",
            {"job": path, "trace": trace},
            variables=launching.environment_of(planned),
        )
    kernels = [f"  {one['share']:6.1%}  {one['name'][:100]}" for one in found["kernels"]]
    return [
        f"profile of {found['steps']} steps of {row['case']}: the device computed in "
        f"{found['busy_share']:.1%} of the time; the trace is {trace.name}",
        *kernels,
    ]


def _model(workload: Workload) -> dict[str, Any]:
    return {
        "model": workload.model,
        "model_kwargs": workload.model_kwargs,
        "image_size": workload.image_size,
        "classes": workload.classes,
    }


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [f"{'case':<18}{'samples/s':>11}{'MFU':>8}{'J/sample':>10}{'loss gap':>10}  verdict"]
    for row in rows:
        figures = [
            "" if row[name] is None else f"{row[name]:{form}}"
            for name, form in (
                ("samples_per_s", ".4g"),
                ("mfu", ".1%"),
                ("energy_j_per_sample", ".3g"),
                ("loss_gap", "+.3f"),
            )
        ]
        told = row["verdict"] or f"{row['outcome']}: {row['reason']}"
        columns = "".join(
            f"{text:>{width}}" for text, width in zip(figures, (11, 8, 10, 10), strict=True)
        )
        lines.append(f"{row['case']:<18}{columns}  {told}")
    return lines


def _rates(values: Sequence[float]) -> str:
    return " ".join(f"{value:9.4g}" for value in values)
