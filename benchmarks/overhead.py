"""Does the harness slow down what it measures? Its rate against that of a hand-written loop.

A pair is one launch of the harness and one run of `handwritten_loop.py`, each in a process of its
own, with the same model, data source, batch, optimizer and threads; the order alternates. Pairs are
added until the 95 % interval of the median ratio lies inside, or wholly outside, 0.98 to 1.02.

Exit code 0: inside; 1: outside; 2: usage; 3: undecided; 4: a side failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from median_interval import FEWEST, Median, Verdict, median_interval
from sides import WORKLOADS, HarnessValue, SideFailed, handwritten, harness, knobs_of, script

from bench.backends.base import Probe
from bench.backends.registry import Prober

LOWER, UPPER = 0.98, 1.02
MOST_PAIRS = 25
LEAST_WARM_UP = 20
"""Of the hand-written loop. Unit: steps."""
_EXIT = {Verdict.INSIDE: 0, Verdict.OUTSIDE: 1, Verdict.UNDECIDED: 3}
_EXIT_USAGE, _EXIT_FAILED = 2, 4


@dataclass(frozen=True)
class Pair:
    """One launch of each side. Unit: samples per second."""

    harness: HarnessValue
    handwritten: float

    @property
    def ratio(self) -> float:
        """Harness / hand-written: below 1 the harness is slower."""
        return self.harness.samples_per_s / self.handwritten


class Pairing:
    """Draws pairs of equally long launches; the first to start changes from pair to pair.

    Args:
        args: The command line.
        probe: The backend, available.
    """

    def __init__(self, args: argparse.Namespace, probe: Probe) -> None:
        self._args = args
        self._probe = probe
        self._workload = WORKLOADS[args.model]
        self._knobs = knobs_of(self._workload, source=args.source, threads=args.threads)
        pilot = self._ours(0)
        self.steps = max(1, round(pilot.samples_per_s * args.seconds / self._workload.batch_size))
        """Timed steps of the hand-written loop: what the harness fits into its budget."""

    def draw(self, number: int) -> Pair:
        """Run both sides of pair `number`, from 0."""
        if number % 2 == 0:
            ours = self._ours(number)
            return Pair(ours, self._theirs(number))
        theirs = self._theirs(number)
        return Pair(self._ours(number), theirs)

    def _ours(self, number: int) -> HarnessValue:
        args = self._args
        return harness(
            self._probe, self._knobs, seconds=args.seconds, seed=args.seed + number, number=number
        )

    def _theirs(self, number: int) -> float:
        args = self._args
        return handwritten(
            self._workload,
            backend=args.backend,
            source=args.source,
            threads=args.threads,
            warm_up=max(LEAST_WARM_UP, self.steps // 4),
            steps=self.steps,
            seed=args.seed + number,
        )


def median_of(pairs: Sequence[Pair]) -> Median:
    """Return the median ratio with its interval."""
    return median_interval([pair.ratio for pair in pairs])


def until_decided(draw: Callable[[int], Pair], most: int) -> Iterator[list[Pair]]:
    """Draw pairs until there is a verdict, or `most` of them; yields all so far after each."""
    pairs: list[Pair] = []
    for number in range(most):
        pairs.append(draw(number))
        yield pairs
        if median_of(pairs).against(LOWER, UPPER) is not Verdict.UNDECIDED:
            return


def main() -> int:
    """Run the comparison that the command line asks for."""
    args = _arguments()
    probe = Prober().probe(args.backend)
    if not probe.available:
        _say(f"{args.backend} is not available: {probe.reason}; {probe.remedy}")
        return _EXIT_USAGE
    pairs: list[Pair] = []
    try:
        pairing = Pairing(args, probe)
        _say(f"{pairing.steps} timed steps on either side of a pair")
        for pairs in until_decided(pairing.draw, args.pairs):
            _say(_progress(pairs))
        host = script("host_time.py", {}, threads=1)
    except SideFailed as failed:
        _say(str(failed))
        return _EXIT_FAILED
    verdict = median_of(pairs).against(LOWER, UPPER)
    if args.json:
        print(json.dumps(_document(args, pairing.steps, pairs, host)))
    else:
        print(f"{args.backend}, {args.model}, {args.source} batches, {args.threads} thread(s)")
        print(f"harness / hand-written: {_interval(median_of(pairs))}, {len(pairs)} pairs")
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
    parser.add_argument("--seconds", type=float, default=10.0, help="timed, per side of a pair")
    parser.add_argument("--pairs", type=int, default=MOST_PAIRS, help="at most")
    parser.add_argument("--seed", type=int, default=0, help="of the first pair")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.pairs < FEWEST:
        parser.error(f"--pairs {args.pairs}: below {FEWEST} pairs the median has no 95 % interval")
    if args.threads < 1 or args.seconds <= 0:
        parser.error("--threads and --seconds must be positive")
    return args


def _document(
    args: argparse.Namespace, steps: int, pairs: Sequence[Pair], host: Any
) -> dict[str, Any]:
    median = median_of(pairs)
    return {
        "backend": args.backend,
        "model": args.model,
        "source": args.source,
        "threads": args.threads,
        "steps": steps,
        "ratio": median.estimate,
        "ratio_low": median.low,
        "ratio_high": median.high,
        "verdict": median.against(LOWER, UPPER),
        "pairs": [
            {
                "harness_samples_per_s": pair.harness.samples_per_s,
                "handwritten_samples_per_s": pair.handwritten,
                "failed_checks": pair.harness.failed_checks,
                "noise": pair.harness.noise,
            }
            for pair in pairs
        ],
        "host_time": host,
    }


def _progress(pairs: Sequence[Pair]) -> str:
    last = pairs[-1]
    failed = ", ".join(last.harness.failed_checks)
    return (
        f"pair {len(pairs)}: harness {last.harness.samples_per_s:.4g}, hand-written "
        f"{last.handwritten:.4g} samples/s, ratio {last.ratio:.4f}; "
        f"median so far {_interval(median_of(pairs))}"
        + (f"; audit failed: {failed}" if failed else "")
        + ("; noisy machine" if last.harness.noise else "")
    )


def _interval(median: Median) -> str:
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
