"""Does an engine of the harness train as fast as the library's own loop? Both in turns.

For every engine, over one rank and over two of one thread each, pairs of a harness launch and a
loop of `handwritten_engines.py` are drawn as in `overhead.py`, until the 95 % interval of the
median ratio lies inside, or wholly outside, 0.97 to 1.03. The loop is a guest of each rank's
process and uses the process group that the launch has formed. It needs a core for each rank.

Exit code 0: all inside; 1: one is outside; 2: usage; 3: one is undecided; 4: a side failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import turns
from median_interval import FEWEST, Verdict
from overhead import interval, median_of, progress, until_decided
from sides import WORKLOADS, SideFailed
from turns import Drawn

from bench.backends.base import Probe
from bench.backends.registry import Prober

LOWER, UPPER = 0.97, 1.03
ENGINES = ("ddp", "fsdp", "accelerate", "deepspeed")
MOST_PAIRS = 25
_EXIT_OUTSIDE, _EXIT_USAGE, _EXIT_UNDECIDED, _EXIT_FAILED = 1, 2, 3, 4


def main() -> int:
    """Run the comparisons that the command line asks for."""
    args = _arguments()
    probe = Prober().probe("cpu")
    if not probe.available:
        _say(f"cpu is not available: {probe.reason}; {probe.remedy}")
        return _EXIT_USAGE
    found: list[dict[str, Any]] = []
    for engine in args.engine or ENGINES:
        for ranks in args.ranks or (1, 2):
            try:
                found.append(_compared(args, probe, engine, ranks))
            except SideFailed as failed:
                _say(f"{engine}, {ranks} rank(s): {failed}")
                return _EXIT_FAILED
    if args.json:
        print(json.dumps(found))
    else:
        for one in found:
            print(
                f"{one['engine']:<10} {one['ranks']} rank(s): harness / hand-written "
                f"{one['text']}, {len(one['pairs'])} pairs, {one['verdict']} {LOWER} to {UPPER}"
            )
    verdicts = {one["verdict"] for one in found}
    if Verdict.OUTSIDE in verdicts:
        return _EXIT_OUTSIDE
    return _EXIT_UNDECIDED if Verdict.UNDECIDED in verdicts else 0


def _compared(args: argparse.Namespace, probe: Probe, engine: str, ranks: int) -> dict[str, Any]:
    def draw(number: int) -> Drawn:
        return turns.draw(
            probe,
            WORKLOADS[args.model],
            source=args.source,
            threads=1,
            seconds=args.seconds,
            seed=args.seed + number,
            number=number,
            one_process=True,
            engine={"engine": engine, "processes": ranks},
        )

    pairs: Sequence[Drawn] = []
    for pairs in until_decided(draw, args.pairs, LOWER, UPPER):
        _say(f"{engine}, {ranks} rank(s), {progress(pairs)}")
    median = median_of(pairs)
    return {
        "engine": engine,
        "ranks": ranks,
        "ratio": median.estimate,
        "ratio_low": median.low,
        "ratio_high": median.high,
        "text": interval(median),
        "verdict": median.against(LOWER, UPPER),
        "pairs": [
            {
                "harness_samples_per_s": pair.harness.samples_per_s,
                "handwritten_samples_per_s": pair.handwritten,
                "failed_checks": pair.harness.failed_checks,
            }
            for pair in pairs
        ],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Engines against hand-written loops.")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="again for more; all")
    parser.add_argument(
        "--ranks", action="append", type=int, choices=[1, 2], help="again for more; 1 and 2"
    )
    parser.add_argument("--model", choices=sorted(WORKLOADS), default="small-vit")
    parser.add_argument("--source", choices=["random", "cached"], default="random")
    parser.add_argument("--seconds", type=float, default=8.0, help="timed, per side of a pair")
    parser.add_argument("--pairs", type=int, default=MOST_PAIRS, help="at most, of each")
    parser.add_argument("--seed", type=int, default=0, help="of the first pair")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    if args.pairs < FEWEST:
        parser.error(f"--pairs {args.pairs}: below {FEWEST} pairs the median has no 95 % interval")
    if args.seconds <= 0:
        parser.error("--seconds must be positive")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if (cores or 1) < max(args.ranks or [2]):
        parser.error(f"{cores} core(s) may be used, and every rank needs one: --ranks 1")
    return args


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
