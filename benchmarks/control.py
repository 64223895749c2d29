"""The other half of the catalogue of lies: honest launches, which no check may flag.

Launches of the 3 ms ViT, each a fresh process with every check and every diagnostic on. A launch
during which others used the processors, by a count of this script's own that shares no code with
the harness, is replaced: what a disturbed machine does to a check is no verdict on the check. Any
flag other than noise is a false alarm.

Exit code 0: none; 1: at least one; 2: usage; 3: the machine was never quiet for long enough; 4: a
launch ended without a result.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from sides import TIMEOUT_S, WORKLOADS, SideFailed, knobs_of, planned_case

from bench.backends.registry import Prober
from bench.results.record import CheckResult, Launch, Weight
from bench.run import launching
from bench.run.ending import End
from bench.run.launching import Order
from bench.run.plan import Planned
from bench.scenarios.schema import Measure

_EXIT_ALARM, _EXIT_USAGE, _EXIT_NEVER_QUIET, _EXIT_FAILED = 1, 2, 3, 4
_OTHERS_LIMIT = 0.05
"""Share of all processors that others may use during a launch before it is replaced."""
_MOST_REPLACED = 2.0
"""Launches that may be replaced, per launch that is wanted."""


@dataclass
class Tally:
    """What the launches so far were flagged with."""

    kept: int = 0
    replaced: int = 0
    noisy: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    evidence: list[str] = field(default_factory=list)


class OthersShare:
    """Busy time of the processors that is neither ours nor that of a child we waited for."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._busy = _busy_s()
        self._ours = _ours_s()

    def so_far(self) -> float:
        """Return the share since this object was made, of all processors."""
        there_was = (time.perf_counter() - self._begin) * (os.cpu_count() or 1)
        others = (_busy_s() - self._busy) - (_ours_s() - self._ours)
        return max(0.0, others) / there_was


def _busy_s() -> float:
    with open("/proc/stat", encoding="ascii") as file:  # noqa: PTH123
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _ours_s() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def launch(planned: Planned, number: int) -> Launch:
    """Run one launch.

    Raises:
        SideFailed: it ended without a result.
    """
    order = Order(
        planned=planned,
        # The first launch of a run is the one that is looked into.
        index=0,
        seed=number,
        session="control",
        round=number,
        timeout_s=TIMEOUT_S,
        cache="none",
    )
    result = launching.run(order, lambda _event: None, lambda: False)
    if isinstance(result, End):
        raise SideFailed(f"launch {number}: {result.outcome}: {result.reason}")
    return result


def count(tally: Tally, found: Launch) -> None:
    """Add the flags of one launch."""
    tally.kept += 1
    failed = [check for check in found.audit if check.result is CheckResult.FAIL]
    tally.noisy += any(check.weight is Weight.NOISY for check in failed)
    for check in failed:
        if check.weight is not Weight.NOISY:
            tally.flags[check.name] += 1
            tally.evidence.append(f"launch {tally.kept}: {check.name}: {check.evidence}")


def main() -> int:
    """Run as many honest launches as the command line asks for."""
    parser = argparse.ArgumentParser(description="Honest launches, which no check may flag.")
    parser.add_argument("--backend", choices=["cpu", "xla"], default="cpu")
    parser.add_argument("--launches", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=2.0, help="inside windows, per launch")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.launches < 1 or args.seconds <= 0:
        parser.error("--launches and --seconds must be positive")
    probe = Prober().probe(args.backend)
    if not probe.available:
        print(f"{args.backend} is not available: {probe.reason}", file=sys.stderr)
        return _EXIT_USAGE
    measure = Measure(launches=1, budget_s=args.seconds, timeout_s=TIMEOUT_S)
    knobs = knobs_of(WORKLOADS["small-vit"], source="random", threads=1)
    tally = Tally()
    try:
        planned = planned_case(probe, knobs, measure)
        while tally.kept < args.launches:
            if tally.replaced > _MOST_REPLACED * args.launches:
                print("others used this machine all the time", file=sys.stderr)
                return _EXIT_NEVER_QUIET
            others = OthersShare()
            found = launch(planned, tally.kept + tally.replaced)
            share = others.so_far()
            if share > _OTHERS_LIMIT:
                tally.replaced += 1
                print(f"replaced: others used {share:.1%}", file=sys.stderr, flush=True)
                continue
            count(tally, found)
            print(
                f"launch {tally.kept}: {found.samples_per_s:.0f} samples/s, others {share:.1%}, "
                f"flags so far: {dict(tally.flags) or 'none'}, noisy {tally.noisy}",
                file=sys.stderr,
                flush=True,
            )
    except SideFailed as failed:
        print(failed, file=sys.stderr)
        return _EXIT_FAILED
    if args.json:
        print(json.dumps(vars(tally)))
    else:
        print(
            f"{tally.kept} launches, {tally.replaced} replaced, {tally.noisy} noisy; "
            f"flags other than noise: {dict(tally.flags) or 'none'}"
        )
        print("\n".join(tally.evidence))
    return _EXIT_ALARM if tally.flags else 0


if __name__ == "__main__":
    sys.exit(main())
