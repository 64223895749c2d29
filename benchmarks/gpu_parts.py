"""The parts of `gpu_check.py`: each runs something and yields lines to print and bounds.

What was yielded before a part failed stays. It decides nothing by itself: what a figure is held
against is in `gpu_bounds`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import gpu_bounds
from gpu_bounds import Finding, Ran, Row
from gpu_request import ROOT, SCENARIOS, Check, Failed, beyond, cases_asked, settings_of, unwatched
from sides import script

from bench.backends.base import Probe
from bench.backends.registry import import_environment
from bench.results.record import Record
from bench.results.wording import DOES_NOT_LEARN
from bench.run import launching
from bench.run.plan import plan
from bench.worker.job import Job

_MARKS = {"cuda": "cuda", "cpu": "torch"}
"""Of the tests that need the device."""


def tests(check: Check) -> Iterator[str | Finding]:
    """Run the tests that need the device."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", _MARKS[check.backend], check.tests]
        command.append(f"--junitxml={report}")
        # The summary alone goes to our own output.
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
        if not report.exists():
            raise Failed(f"pytest ended with exit code {done.returncode} and without a report")
        yield gpu_bounds.tests_pass(report.read_text(encoding="utf-8"), done.returncode)


def ladder(check: Check, probe: Probe) -> Iterator[str | Finding]:
    """Run the public ladder."""
    ran = _run(check, probe, "ladder")
    yield from _table(ran.rows)
    yield gpu_bounds.rows_can_be_believed("vit-ladder", ran)


def rungs(check: Check, probe: Probe, loop: Sequence[float]) -> Iterator[str | Finding]:
    """Run our own rungs, and profile the best compiled one where it uses too little of the peak.

    Args:
        check: What is asked for.
        probe: The device.
        loop: Rates of timm's loop; none: nothing is held against them. Unit: samples per second.
    """
    ran = _run(check, probe, "rungs")
    yield from _table(ran.rows)
    if loop:
        yield gpu_bounds.gain(ran, loop)
    yield gpu_bounds.rows_can_be_believed("gpu-rungs", ran)
    enough = gpu_bounds.enough_of_the_peak(ran)
    yield enough
    if not enough.holds and (chosen := gpu_bounds.to_profile(ran)):
        yield from _profile(check, probe, chosen)


def _run(check: Check, probe: Probe, part: str) -> Ran:
    """Run a part's scenario into the results folder."""
    scenario = SCENARIOS[part]
    command = [sys.executable, "-m", "bench", "run", scenario, "--backend", check.backend]
    for setting in settings_of(check, part):
        command += ["--set", setting]
    for case in cases_asked(check, scenario):
        command += ["--case", case]
    command += ["--results", str(check.results), "--format", "json"]
    done = subprocess.run(
        command,
        env={**os.environ, **import_environment()},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    try:
        rows = list(json.loads(done.stdout)["rows"])
    except json.JSONDecodeError as error:
        raise Failed(f"bench run {scenario} ended with {done.returncode}, without rows") from error
    return Ran(rows, done.returncode, beyond(check, probe, part), unwatched(check, part))


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
        found = script(
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
        told += f", {DOES_NOT_LEARN}" if row["learns"] is False else ""
        columns = "".join(
            f"{text:>{width}}" for text, width in zip(figures, (11, 8, 10, 10), strict=True)
        )
        lines.append(f"{row['case']:<18}{columns}  {told}")
    return lines
