"""The same model and batch timed as timm's public benchmark script does, beside the harness.

Three ways in rounds, each in a process of its own, the order reversed every round: 40 steps on one
batch without a loader; the harness on batches that lie on the device; the harness with a loader
that decodes and augments JPEG images (or another source). The first two should agree, since they
time the same work; the third is what training from images meets. On the CPU.

Exit code 0: all ways gave numbers; 2: usage; 4: one did not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from sides import WORKLOADS, SideFailed, Workload, harness, knobs_of, script

from bench.backends.base import Probe
from bench.backends.registry import Prober
from bench.results.statistics import Interval, t_interval

_EXIT_USAGE, _EXIT_FAILED = 2, 4
_DIFFERENCES = """\
What is measured differently
  timm-style      one process, 40 steps on one batch, after 10 steps that nobody checked for having
                  settled; no loader, no second process to tell luck from speed.
  harness/device  windows for as long as the budget says after a warm-up that has settled; a pool of
                  batches in turn; each value is a fresh process.
  harness/loader  the same, with every batch made by the loader while the model trains."""


@dataclass
class Way:
    """One way of timing. Values are samples per second, one per process."""

    name: str
    draw: Callable[[int], float]
    values: list[float] = field(default_factory=list)

    @property
    def interval(self) -> Interval:
        """Geometric mean and t interval over the processes."""
        return t_interval(self.values)


def ways(args: argparse.Namespace, workload: Workload, probe: Probe) -> list[Way]:
    """Return the three ways, the timm-style one first."""

    def timm_style(number: int) -> float:
        arguments = {
            "model": workload.model,
            "model-kwargs": json.dumps(workload.model_kwargs),
            "image-size": workload.image_size,
            "classes": workload.classes,
            "batch-size": workload.batch_size,
            "threads": args.threads,
            "seed": args.seed + number,
        }
        found = script("timm_style_loop.py", arguments, threads=args.threads)
        return float(found["samples_per_s"])

    def ours(source: str) -> Callable[[int], float]:
        knobs = knobs_of(workload, source=source, threads=args.threads)

        def draw(number: int) -> float:
            seed = args.seed + number
            value = harness(probe, knobs, seconds=args.seconds, seed=seed, number=number)
            for name in value.failed_checks:
                print(f"harness/{source}: audit check {name} failed", file=sys.stderr)
            return value.samples_per_s

        return draw

    return [
        Way("timm-style", timm_style),
        Way("harness/device", ours("device")),
        Way(f"harness/{args.loader}", ours(args.loader)),
    ]


def main() -> int:
    """Time all three and print them side by side."""
    parser = argparse.ArgumentParser(description="timm's way of timing beside the harness, on CPU.")
    parser.add_argument("--model", choices=sorted(WORKLOADS), default="vit-tiny")
    parser.add_argument("--loader", choices=["random", "cached", "jpeg"], default="jpeg")
    parser.add_argument("--threads", type=int, default=1, help="compute threads of every way")
    parser.add_argument("--seconds", type=float, default=10.0, help="timed by the harness, per run")
    parser.add_argument("--rounds", type=int, default=3, help="processes per way, at least 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.rounds < 2 or args.threads < 1 or args.seconds <= 0:
        parser.error("--rounds must be at least 2, --threads and --seconds positive")
    probe = Prober().probe("cpu")
    if not probe.available:
        print(f"cpu is not available: {probe.reason}; {probe.remedy}", file=sys.stderr)
        return _EXIT_USAGE
    compared = ways(args, WORKLOADS[args.model], probe)
    try:
        for number in range(args.rounds):
            for way in compared if number % 2 == 0 else reversed(compared):
                way.values.append(way.draw(number))
                print(
                    f"round {number + 1}: {way.name} {way.values[-1]:.4g} samples/s",
                    file=sys.stderr,
                )
    except SideFailed as failed:
        print(failed, file=sys.stderr)
        return _EXIT_FAILED
    if args.json:
        print(json.dumps({way.name: way.values for way in compared}))
        return 0
    _print(args, compared)
    return 0


def _print(args: argparse.Namespace, compared: list[Way]) -> None:
    workload = WORKLOADS[args.model]
    print(f"{args.model}, batch {workload.batch_size}, {args.threads} thread(s), samples/s")
    print(f"{'way':<16}{'mean':>9}{'95 % interval':>22}{'/ timm-style':>14}")
    reference = compared[0]
    for way in compared:
        interval = way.interval
        bounds = f"{interval.low:.4g} to {interval.high:.4g}"
        # Paired within rounds, since the machine drifts between them.
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(way.values, reference.values, strict=True)
        )
        print(f"{way.name:<16}{interval.estimate:>9.4g}{bounds:>22}{ratio:>14.3f}")
    print(_DIFFERENCES)


if __name__ == "__main__":
    sys.exit(main())
