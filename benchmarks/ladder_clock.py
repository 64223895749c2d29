"""The clock of the public Inferentia2 ladder, replayed on XLA on the host's processors.

That ladder took the mean of single step times, read as the steps were handed to the device, and
found that more steps in a graph (`batches_per_execution`) made training several times faster. Here
the same settings run under three clocks: ours, from fence to fence; one read as the ladder's was,
over the same steps; and a whole launch whose fence does not wait, so that the audit can be heard
about it. What such a clock leaves out is what is undone at the end, so the largest graph is read
over longer blocks too: the ladder's mean was over 491 steps. The model is a few wide products: the
device is the slower side, as on an accelerator. Prints the tables; with `--docs DIR` it writes the
page and the picture there.

Exit code 0: all launches gave numbers; 2: usage; 4: one did not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bars import Bar, Group, bars
from sides import TIMEOUT_S, SideFailed, command, planned_case

from bench.backends.base import Probe
from bench.backends.registry import Prober
from bench.results.naive import NaiveReading, naive_reading
from bench.results.record import CheckResult, Launch
from bench.run import launching
from bench.run.ending import End
from bench.run.launching import Order
from bench.run.plan import Planned
from bench.scenarios.schema import Knobs, Measure
from bench.worker.job import Job

_EXIT_USAGE, _EXIT_FAILED = 2, 4
_KNOBS = {
    "model": "wide_mlp:build",
    "image_size": 32,
    "classes": 10,
    "batch_size": 64,
    "optimizer": "sgd",
    "threads": 1,
    "data": {"source": "cached"},
}
_WINDOWS = 3
_PAGE = "ladder-clock.md"
_PICTURE = "ladder-clock.svg"


@dataclass(frozen=True)
class Replayed:
    """What three clocks say of one setting. Unit: samples per second."""

    batches_per_execution: int
    measured: float
    steps: int
    """Over which the naive clock was read."""
    naive: float
    naive_ratio: float
    """Over the same steps until the device had finished them."""
    unfenced: float
    objections: tuple[str, ...]
    """What the audit says of the launch whose fence does not wait."""


@dataclass(frozen=True)
class Longer:
    """What the naive clock says over a block of so many steps."""

    steps: int
    naive_ratio: float
    """Over the same steps until the device had finished them."""


def replay(planned: Planned) -> Replayed:
    """Run both launches of one setting.

    Raises:
        SideFailed: one of them gave no number.
    """
    honest, naive = _honest(planned)
    unfenced = _unfenced(planned)
    return Replayed(
        batches_per_execution=planned.case.knobs.loader.batches_per_execution,
        measured=honest.samples_per_s,
        steps=naive.steps,
        naive=naive.samples_per_s,
        naive_ratio=naive.ratio,
        unfenced=unfenced.samples_per_s,
        objections=tuple(
            f"{check.name}: {check.evidence}"
            for check in unfenced.audit
            if check.result is CheckResult.FAIL
        ),
    )


def _honest(planned: Planned) -> tuple[Launch, NaiveReading]:
    order = Order(
        planned=planned,
        index=0,
        seed=1,
        session="ladder-clock",
        round=0,
        timeout_s=TIMEOUT_S,
        cache="none",
    )
    honest = launching.run(order, lambda _event: None, lambda: False)
    if isinstance(honest, End):
        raise SideFailed(f"the harness: {honest.outcome}: {honest.reason}")
    naive = naive_reading([honest])
    if naive is None:
        raise SideFailed("the harness: its diagnostic pass read no naive clock")
    return honest, naive


def _unfenced(planned: Planned) -> Launch:
    with tempfile.TemporaryDirectory(prefix="bench-ladder-") as name:
        path = Path(name) / "job.json"
        job = Job(
            case=planned.case,
            backend=planned.backend,
            probe=planned.probe,
            index=0,
            seed=1,
            session="ladder-clock",
            round=0,
            diagnose=False,
            cache="none",
            folder=name,
        )
        path.write_text(job.model_dump_json(by_alias=True), encoding="utf-8")
        done = subprocess.run(
            command("unfenced_side.py", {"job": path}),
            env=launching.environment_of(planned),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    if done.returncode != 0:
        raise SideFailed(f"unfenced_side.py ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return Launch.model_validate_json(done.stdout.splitlines()[-1])


def main() -> int:
    """Replay the settings that the command line names."""
    args = _arguments()
    probe = Prober().probe("xla")
    if not probe.available:
        print(f"xla is not available: {probe.reason}; {probe.remedy}", file=sys.stderr)
        return _EXIT_USAGE
    # The model is found in the working directory.
    os.chdir(Path(__file__).parent)
    replayed, longer = [], []
    try:
        for count in args.batches_per_execution:
            replayed.append(replay(_planned(probe, count, args.seconds)))
            print(_line(replayed[-1]), file=sys.stderr, flush=True)
        largest = max(replayed, key=lambda one: one.batches_per_execution)
        for steps in args.steps:
            seconds = _WINDOWS * steps * int(_KNOBS["batch_size"]) / largest.measured
            _, naive = _honest(_planned(probe, largest.batches_per_execution, seconds))
            longer.append(Longer(naive.steps, naive.ratio))
            print(f"over {naive.steps} steps: {naive.ratio:.2f}x", file=sys.stderr, flush=True)
    except SideFailed as failed:
        print(failed, file=sys.stderr)
        return _EXIT_FAILED
    if args.docs is not None:
        args.docs.mkdir(parents=True, exist_ok=True)
        (args.docs / _PAGE).write_text(page(replayed, longer), encoding="utf-8")
        (args.docs / _PICTURE).write_text(picture(replayed), encoding="utf-8")
    if args.json:
        print(json.dumps([vars(one) for one in (*replayed, *longer)]))
    else:
        print(f"{table(replayed)}\n\n{table_of_longer(longer)}")
    return 0


def _planned(probe: Probe, batches_per_execution: int, seconds: float) -> Planned:
    loader = {"batches_per_execution": batches_per_execution}
    measure = Measure(launches=1, budget_s=seconds, windows=_WINDOWS, timeout_s=TIMEOUT_S)
    return planned_case(probe, Knobs.model_validate(_KNOBS | {"loader": loader}), measure)


def _folder(text: str) -> Path:
    return Path(text).absolute()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The public ladder's clock beside ours, on XLA.")
    parser.add_argument("--batches-per-execution", type=int, nargs="+", default=[1, 4, 10])
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="timed, per launch, in 3 windows"
    )
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[40, 200], help="longer blocks for the largest"
    )
    parser.add_argument("--docs", type=_folder, help="write the page and its picture here")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    args = parser.parse_args()
    if args.seconds <= 0 or min(*args.batches_per_execution, *args.steps) < 1:
        parser.error("--seconds, --steps and --batches-per-execution must be positive")
    return args


def table(replayed: Sequence[Replayed]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| batches per execution | fence to fence | mean of step times | over | no fence |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {one.batches_per_execution} | {one.measured:.0f} | "
        f"{one.naive:.0f} ({one.naive_ratio:.2f}x) | {one.steps} steps | "
        f"{one.unfenced:.0f} ({one.unfenced / one.measured:.2f}x) |"
        for one in replayed
    ]
    return "\n".join(lines)


def table_of_longer(longer: Sequence[Longer]) -> str:
    """Return how the naive clock nears the truth, as a Markdown table."""
    lines = ["| steps | mean of step times / fence to fence |", "| ---: | ---: |"]
    return "\n".join([*lines, *(f"| {one.steps} | {one.naive_ratio:.2f}x |" for one in longer)])


def page(replayed: Sequence[Replayed], longer: Sequence[Longer]) -> str:
    """Return the page of the documentation."""
    objections = "\n".join(
        f"- {one.batches_per_execution}: {'; '.join(one.objections) or 'no objection'}"
        for one in replayed
    )
    return f"""# What the clock of the public ladder reads

Written by `python benchmarks/ladder_clock.py --docs docs`, on XLA on the host's processors: a few
wide products (`benchmarks/wide_mlp.py`), batch {_KNOBS["batch_size"]}, one thread, one launch each.
Unit: samples per second. The naive clock is divided by the same steps until the device had
finished them.

{table(replayed)}

![The same training under three clocks]({_PICTURE})

- *Fence to fence* is what the table of `bench run` shows: whole periods between two moments at
  which the device has finished everything.
- *Mean of step times* is read as the ladder's clock was, and the usual script's is: one reading
  per step, no fence. Here it is read over the steps of one window (about a second). `bench show`
  calls it the naive clock. What is queued when the last step has been issued, and the steps of a
  graph that is not full yet, cost it nothing: the fewer and the larger the graphs, the more it
  overstates. Where the block is one graph, that graph has hardly begun.
- *No fence* is a launch of this harness whose fence was replaced by
  `torch_xla.sync()`, which cuts the graph and returns.

What the audit says of that last launch, by batches per execution:

{objections}

Where it does not object, at 1 batch per execution, the missing fence costs little: a step is a
graph, and the device is never more than a few of them behind.

## Over more steps

What is left undone at the end weighs less, the longer the block. With
{max(one.batches_per_execution for one in replayed)} batches per execution:

{table_of_longer(longer)}

The public ladder took the mean over 491 steps, so it was wrong by less than the first table's last
row; by how much depends on how deep its device's queue was, which it does not say.
"""


def picture(replayed: Sequence[Replayed]) -> str:
    """Return the figures as an SVG document."""
    return bars(
        "The same training under three clocks, samples/s",
        [
            Group(
                f"batches per execution {one.batches_per_execution}",
                (
                    Bar("fence to fence", one.measured),
                    Bar("mean of step times", one.naive),
                    Bar("fence that does not wait", one.unfenced),
                ),
            )
            for one in replayed
        ],
    )


def _line(one: Replayed) -> str:
    return (
        f"batches per execution {one.batches_per_execution}: {one.measured:.1f} samples/s, naive "
        f"{one.naive:.1f}, unfenced {one.unfenced:.1f}; audit: {'; '.join(one.objections) or '-'}"
    )


if __name__ == "__main__":
    sys.exit(main())
