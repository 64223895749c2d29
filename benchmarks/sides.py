"""Both sides of a comparison, each in a fresh process: one launch of the harness, or a script.

It must not import torch, and it must not decide anything from the numbers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.backends.base import Probe
from bench.results.checks import failed
from bench.results.record import CheckResult, Weight
from bench.run import launching
from bench.run.ending import End
from bench.run.launching import Order
from bench.run.plan import Planned, plan
from bench.scenarios.schema import Case, Knobs, Measure

TIMEOUT_S = 900.0
"""Of one process, compilation included."""
_NO_MORE: Mapping[str, object] = MappingProxyType({})


class SideFailed(Exception):  # noqa: N818 - a result that could not be had, with its reason
    """One side gave no number."""


@dataclass(frozen=True)
class Workload:
    """What both sides train, in the terms that both understand."""

    name: str
    model: str
    model_kwargs: dict[str, Any]
    image_size: int
    """Unit: pixels."""
    classes: int
    batch_size: int
    """Unit: samples."""


@dataclass(frozen=True)
class HarnessValue:
    """What one launch of the harness found."""

    samples_per_s: float
    failed_checks: list[str] = field(default_factory=list)
    suspect_checks: list[str] = field(default_factory=list)
    """Those of them by which the value may not be so."""


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            name="small-vit",
            model="vit_tiny_patch16_224",
            model_kwargs={
                "img_size": 32,
                "patch_size": 8,
                "embed_dim": 64,
                "depth": 2,
                "num_heads": 2,
            },
            image_size=32,
            classes=10,
            batch_size=8,
        ),
        Workload(
            name="vit-tiny",
            model="vit_tiny_patch16_224",
            model_kwargs={},
            image_size=224,
            classes=1000,
            batch_size=8,
        ),
    )
}
"""A step of `small-vit` takes about 3 ms on one core: there the harness's own time would show."""


def knobs_of(
    workload: Workload, *, source: str, threads: int, more: Mapping[str, object] = _NO_MORE
) -> Knobs:
    """Return the knobs by which the harness runs the workload, and more of them."""
    return Knobs.model_validate(
        {
            "model": workload.model,
            "model_kwargs": workload.model_kwargs,
            "image_size": workload.image_size,
            "classes": workload.classes,
            "batch_size": workload.batch_size,
            "data": {"source": source},
            "threads": threads,
            **more,
        }
    )


def planned_case(probe: Probe, knobs: Knobs, measure: Measure) -> Planned:
    """Return the case that the harness runs.

    Raises:
        SideFailed: the backend refuses it.
    """
    case = Case(scenario="overhead", case=knobs.model, knobs=knobs, measure=measure)
    [planned] = plan([case], [probe], {})
    if not planned.runnable:
        raise SideFailed("; ".join(str(refusal) for refusal in planned.refusals))
    return planned


def harness(probe: Probe, knobs: Knobs, *, seconds: float, seed: int, number: int) -> HarnessValue:
    """Run one launch with a budget of so many seconds inside windows.

    Raises:
        SideFailed: the backend refuses the case, or the launch ended without a result.
    """
    measure = Measure(launches=1, budget_s=seconds, diagnostics=False, timeout_s=TIMEOUT_S)
    order = Order(
        planned=planned_case(probe, knobs, measure),
        index=number,
        seed=seed,
        session="overhead",
        round=number,
        timeout_s=TIMEOUT_S,
        cache="none",
    )
    result = launching.run(order, lambda _event: None, lambda: False)
    if isinstance(result, End):
        raise SideFailed(f"the harness: {result.outcome}: {result.reason}")
    found = [check.name for check in result.audit if check.result is CheckResult.FAIL]
    suspect = [check.name for check in failed([result], Weight.SUSPECT)]
    return HarnessValue(result.samples_per_s, found, suspect)


def command(name: str, arguments: Mapping[str, object]) -> list[str]:
    """Return the command line of a script of this folder; options without their dashes."""
    return [sys.executable, str(Path(__file__).with_name(name)), *options(arguments)]


def options(arguments: Mapping[str, object]) -> list[str]:
    """Return the words of a command line that give these options, named without their dashes."""
    return [word for key, value in arguments.items() for word in (f"--{key}", str(value))]


def script_environment(threads: int | None) -> dict[str, str]:
    """Return the environment in which a script computes on the host with so many threads."""
    if threads is None:
        return dict(os.environ)
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NPROC"), str(threads))
    return {**os.environ, "PJRT_DEVICE": "CPU", **variables}


def script(
    name: str,
    arguments: Mapping[str, object],
    *,
    threads: int | None = None,
    flags: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a script of this folder and return the JSON object on its last line.

    Args:
        name: Its file name.
        arguments: Options of its command line, without the dashes.
        threads: Given to every thread pool that reads the environment: OpenMP's and MKL's, and
            that of XLA on the host's processors (NPROC). Null: each has its own way.
        flags: Options without a value, with their dashes.
        variables: The whole environment; null: our own, and what `threads` says.

    Raises:
        SideFailed: it ended badly, or not at all, or its last line is no such document.
    """
    try:
        done = subprocess.run(
            [*command(name, arguments), *flags],
            env=script_environment(threads) if variables is None else dict(variables),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as expired:
        raise SideFailed(f"{name} did not end within {TIMEOUT_S:g} s") from expired
    if done.returncode != 0:
        raise SideFailed(f"{name} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    last = (done.stdout.splitlines() or [""])[-1]
    try:
        found = json.loads(last)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise SideFailed(f"{name} ended well, and its last line is no result: {last[-200:]!r}")
    return found
