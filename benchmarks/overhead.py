"""Does the harness slow down what it measures? Its rate against that of a hand-written loop.

A pair is one launch of the harness and one run of `handwritten_loop.py`, with the same model, data
source, batch, optimizer and threads; the two compute in turns, and the order alternates. Pairs are
added until the 95 % interval of the median ratio lies inside, or wholly outside, 0.98 to 1.02.

Both live in one process, which is new for every pair. In processes of their own
(`--two-processes`) even one and the same loop differs by several per cent for as long as they live,
and no verdict to 2 % is to be had. What slows the whole process would slow both, though: that the
launch's process is no slower than a plain one is what `--two-processes` shows.

Exit code 0: inside; 1: outside; 2: usage; 3: undecided; 4: a side failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import turns
from median_interval import FEWEST, Median, Verdict, median_interval
from sides import WORKLOADS, SideFailed, script
from turns import Drawn

from bench.backends.registry import Prober

LOWER, UPPER = 0.98, 1.02
MOST_PAIRS = 25
_EXIT = {Verdict.INSIDE: 0, Verdict.OUTSIDE: 1, Verdict.UNDECIDED: 3}
_EXIT_USAGE, _EXIT_FAILED = 2, 4


def median_of(pairs: Sequence[Drawn]) -> Median:
    """Return the median ratio with its interval."""
    return median_interval([pair.ratio for pair in pairs])


def until_decided(
    draw: Callable[[int], Drawn], most: int, lower: float = LOWER, upper: float = UPPER
) -> Iterator[list[Drawn]]:
    """Draw pairs until there is a verdict, or `most` of them; yields all so far after each."""
    pairs: list[Drawn] = []
    for number in range(most):
        pairs.append(draw(number))
        yield pairs
        if median_of(pairs).against(lower, upper) is not Verdict.UNDECIDED:
            return


def main() -> int:
    """Run the comparison that the command line asks for."""
    args = _arguments()
    probe = Prober().probe(args.backend)
    if not probe.available:
        _say(f"{args.backend} is not available: {probe.reason}; {probe.remedy}")
        return _EXIT_USAGE
    pairs: list[Drawn] = []
    try:

        def draw(number: int) -> Drawn:
            return turns.draw(
                probe,
                WORKLOADS[args.model],
                source=args.source,
                threads=args.threads,
                seconds=args.seconds,
                seed=args.seed + number,
                number=number,
                one_process=not args.two_processes,
            )

        for pairs in until_decided(draw, args.pairs):
            _say(progress(pairs))
        host = script("host_time.py", {}, threads=1)
    except SideFailed as failed:
        _say(str(failed))
        return _EXIT_FAILED
    verdict = median_of(pairs).against(LOWER, UPPER)
    if args.json:
        print(json.dumps(_document(args, pairs, host)))
    else:
        print(f"{args.backend}, {args.model}, {args.source} batches, {args.threads} thread(s)")
        print(f"harness / hand-written: {interval(median_of(pairs))}, {len(pairs)} pairs")
        print(f"verdict: {verdict} {LOWER} to {UPPER}")
        for task in ("train", "infer"):
            print(f"host time of a {task} step (CPU): {_host_line(host[task])}")
    return _EXIT[verdict]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The harness against a hand-written loop.")
    parser.add_argument("--backend", choices=["cpu", "xla"], default="cpu")
    parser.add_argument("--model", choices=sorted(WORKLOADS), default="small-vit")
    parser.add_argument("--source", choices=["random", "cached"], default="random")
    parser.add_argument("--threads", type=int, default=1, help="compute threads of either side")
    parser.add_argument("--seconds", type=float, default=12.0, help="timed, per side of a pair")
    parser.add_argument("--pairs", type=int, default=MOST_PAIRS, help="at most")
    parser.add_argument(
        "--two-processes", action="store_true", help="run the loop in a process of its own"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first pair")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.pairs < FEWEST:
        parser.error(f"--pairs {args.pairs}: below {FEWEST} pairs the median has no 95 % interval")
    if args.threads < 1 or args.seconds <= 0:
        parser.error("--threads and --seconds must be positive")
    return args


def _document(args: argparse.Namespace, pairs: Sequence[Drawn], host: Any) -> dict[str, Any]:
    median = median_of(pairs)
    return {
        "backend": args.backend,
        "model": args.model,
        "source": args.source,
        "threads": args.threads,
        "ratio": median.estimate,
        "ratio_low": median.low,
        "ratio_high": median.high,
        "verdict": median.against(LOWER, UPPER),
        "two_processes": args.two_processes,
        "pairs": [
            {
                "harness_samples_per_s": pair.harness.samples_per_s,
                "handwritten_samples_per_s": pair.handwritten,
                "failed_checks": pair.harness.failed_checks,
            }
            for pair in pairs
        ],
        "host_time": host,
    }


def progress(pairs: Sequence[Drawn]) -> str:
    """Return one line about the last pair, and the median with it."""
    last = pairs[-1]
    failed = ", ".join(last.harness.failed_checks)
    return (
        f"pair {len(pairs)}: harness {last.harness.samples_per_s:.4g}, hand-written "
        f"{last.handwritten:.4g} samples/s, ratio {last.ratio:.4f}; "
        f"median so far {interval(median_of(pairs))}"
        + (f"; audit failed: {failed}" if failed else "")
    )


def interval(median: Median) -> str:
    """Return a median and its interval in figures."""
    if median.low is None:
        return f"{median.estimate:.4f} (no interval yet)"
    return f"{median.estimate:.4f} [{median.low:.4f}, {median.high:.4f}]"


def _host_line(figures: Any) -> str:
    return (
        f"the harness adds {figures['added_us']:.1f} [{figures['added_us_low']:.1f}, "
        f"{figures['added_us_high']:.1f}] us to {figures['bare_us']:.1f} us"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
