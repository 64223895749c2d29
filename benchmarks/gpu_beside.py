"""timm's own loop beside the harness, in turns and with one case's settings: the rates of each."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence

import gpu_bounds
from gpu_bounds import Finding
from gpu_request import RUNGS, Check, Failed, settings_of
from sides import harness, script

from bench.backends.base import Probe
from bench.scenarios.compose import load
from bench.scenarios.expand import expand
from bench.scenarios.identity import tagged_fields
from bench.scenarios.schema import Knobs

CASE = "timm-settings"
"""Of `gpu_rungs.yaml`: what both sides do."""
_HONOURED = (
    *("model", "model_kwargs", "image_size", "classes", "batch_size", "threads", "precision"),
    *("compile", "channels_last", "optimizer", "learning_rate", "weight_decay", "momentum", "seed"),
)
"""Knobs for which the loop has an option, or draws its own numbers."""
_DIFFERENCES = """\
What the loop does as timm's script, and the harness otherwise, with the same model, batch size,
optimizer, autocast, layout and compiler
  waiting     the loop waits for the device after every step, and the harness at the edges of a
              window. {waiting}
  not timed   the loop has one batch of images, for which it draws labels on the device in every
              step, and the harness a pool of batches with their labels; the loop's backward pass
              is inside autocast; the loop lets cuDNN choose its kernel by timing.
What neither does as timm's script: autocast is to bfloat16, and its default is fp16 without loss
scaling; its learning rate is 0.0001, and its SGD has Nesterov's momentum; it also lets products in
float32 be rounded to TF32, of which autocast leaves none."""


def beside(check: Check, probe: Probe, loop: list[float]) -> Iterator[str | Finding]:
    """Time timm's loop beside the harness, in turns.

    Where something ends it early, an interrupt too, what it had found comes first.

    Args:
        check: What is asked for.
        probe: The device.
        loop: Takes the loop's rates, as they come. Unit: samples per second.

    Raises:
        Failed: the loop cannot do what the case says.
        SideFailed: one side gave no rate.
    """
    knobs = knobs_of(check)
    arguments, flags = as_loop(knobs, check.backend)
    once: list[float] = []
    ours: list[float] = []
    suspect: list[str] = []

    def draw(number: int, into: list[float]) -> float:
        if into is ours:
            value = harness(probe, knobs, seconds=check.seconds, seed=number, number=number)
            for name in value.failed_checks:
                print(f"harness: audit check {name} failed", file=sys.stderr)
            suspect.extend(value.suspect_checks)
            return value.samples_per_s
        more = ["--wait-once"] if into is once else []
        seeded = {**arguments, "seed": number}
        found = script("timm_style_loop.py", seeded, flags=[*flags, *more], threads=knobs.threads)
        return float(found["samples_per_s"])

    try:
        for number in range(check.pairs):
            order = (loop, ours, once) if number % 2 == 0 else (once, ours, loop)
            for into in order:
                into.append(draw(number, into))
    finally:
        yield from _told(loop, once, ours)
        pairs = min(len(loop), len(ours))
        if pairs:
            yield gpu_bounds.beside(ours[:pairs], loop[:pairs], suspect)


def knobs_of(check: Check) -> Knobs:
    """Return the settings of both sides."""
    scenario = load(str(RUNGS), settings_of(check, "rungs"))
    cases = expand(scenario, sweeps={}, refused=lambda _: False)
    return next(case.knobs for case in cases if case.case == CASE)


def as_loop(knobs: Knobs, backend: str) -> tuple[dict[str, object], list[str]]:
    """Return the options and flags by which the loop does what the harness does.

    Raises:
        Failed: it cannot.
    """
    if knobs.precision not in ("fp32", "amp-bf16") or knobs.compile not in ("none", "inductor"):
        raise Failed(f"the loop knows no {knobs.precision} with compile={knobs.compile}")
    if knobs.optimizer not in ("adamw", "sgd"):
        raise Failed(f"the loop knows no optimizer={knobs.optimizer}")
    known = {name: getattr(knobs, name) for name in _HONOURED}
    same = Knobs.model_validate({**known, "data": {"source": "device"}})
    unknown = [
        f"{name}={value}"
        for (name, _, value), (_, _, its) in zip(
            tagged_fields(knobs), tagged_fields(same), strict=True
        )
        if value != its
    ]
    if unknown:
        raise Failed(f"the loop does not know {', '.join(unknown)}")
    options: dict[str, object] = {
        "model": knobs.model,
        "model-kwargs": json.dumps(knobs.model_kwargs),
        "image-size": knobs.image_size,
        "classes": knobs.classes,
        "batch-size": knobs.batch_size,
        "device": "cuda" if backend == "cuda" else "cpu",
        "optimizer": knobs.optimizer,
        "learning-rate": knobs.learning_rate,
        "weight-decay": knobs.weight_decay,
    }
    if knobs.momentum is not None:
        options["momentum"] = knobs.momentum
    if knobs.threads is not None:
        options["threads"] = knobs.threads
    flags = {
        "--amp": knobs.precision == "amp-bf16",
        "--channels-last": knobs.channels_last,
        "--compile": knobs.compile == "inductor",
    }
    return options, [flag for flag, given in flags.items() if given]


def _told(loop: Sequence[float], once: Sequence[float], ours: Sequence[float]) -> Iterator[str]:
    for name, values in (("timm's loop", loop), ("loop, waiting once", once), ("harness", ours)):
        yield f"{name:<20}{' '.join(f'{value:9.6g}' for value in values)} samples/s"
    ratios = [without / waiting for without, waiting in zip(once, loop, strict=False)]
    gained = (
        f"Without that it reads {statistics.median(ratios):.3f} times\n"
        f"              as much (median of {len(ratios)}, above as `loop, waiting once`)."
        if ratios
        else "What that costs was not timed."
    )
    yield _DIFFERENCES.format(waiting=gained)
