"""The other half of the catalogue of lies: honest launches, which no check may flag.

Launches of the 3 ms ViT on one CPU, each a fresh process with every check and every diagnostic on.
A launch during which others used the processors is replaced: what a disturbed machine does to a
check is no verdict on the check. Two counts of this script's own, which share no code with the
harness, decide that: the CPU time of others, and how evenly a list is sorted beside the launch, on
its CPU, which also shows a neighbour on the core that no counter of a virtual machine knows. Any
flag other than noise is a false alarm.

Exit code 0: none; 1: at least one; 2: usage; 3: the machine was never quiet for long enough; 4: a
launch ended without a result.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from sides import TIMEOUT_S, WORKLOADS, SideFailed, knobs_of, planned_case

from bench.backends.registry import Prober
from bench.results.record import Check, CheckResult, Launch, Weight
from bench.run import launching
from bench.run.ending import End
from bench.run.launching import Order
from bench.run.plan import Planned
from bench.scenarios.schema import Measure

_EXIT_ALARM, _EXIT_USAGE, _EXIT_NEVER_QUIET, _EXIT_FAILED = 1, 2, 3, 4
_OTHERS_LIMIT = 0.05
"""Share of all processors that others may use during a launch before it is replaced."""
_PACE_LIMIT = 1.10
"""How much longer a list may take to sort in the slower tenth of tries than in the faster quarter
before the launch is replaced."""
_TRIES_PER_S = 20
_LIST = random.Random(0).choices(range(10**6), k=1000)  # noqa: S311 - no secret
_MOST_REPLACED = 5.0
"""Launches that may be replaced, per launch that is wanted."""


@dataclass
class Tally:
    """What the launches so far were flagged with."""

    kept: int = 0
    replaced: int = 0
    noisy: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    flags_of_replaced: Counter[str] = field(default_factory=Counter)
    """Other than noise: no verdict, and what a user of a disturbed machine meets."""
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


class Pace:
    """Sorts the same list now and then while it is open, in CPU time of its own thread."""

    def __init__(self) -> None:
        self._took_ns: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sort)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def unevenness(self) -> float:
        """Return the slower tenth over the faster quarter of all tries so far."""
        took = sorted(self._took_ns)
        return took[len(took) * 9 // 10] / took[len(took) // 4]

    def _sort(self) -> None:
        while not self._ended.wait(1 / _TRIES_PER_S):
            # The shortest of three: the training beside it has filled the caches.
            self._took_ns.append(min(_sort_ns() for _ in range(3)))


def _sort_ns() -> int:
    begin = time.thread_time_ns()
    sorted(_LIST)
    return time.thread_time_ns() - begin


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


def flagged(found: Launch) -> list[Check]:
    """Return the checks that failed, of any weight."""
    return [check for check in found.audit if check.result is CheckResult.FAIL]


def count(tally: Tally, found: Launch) -> None:
    """Add the flags of one launch."""
    tally.kept += 1
    failed = flagged(found)
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
    # Drawing each sample costs this model a tenth of its step, which is loader_bound's to say.
    knobs = knobs_of(WORKLOADS["small-vit"], source="cached", threads=1)
    tally = Tally()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        planned = planned_case(probe, knobs, measure)
        while tally.kept < args.launches:
            if tally.replaced > _MOST_REPLACED * args.launches:
                print("others used this machine all the time", file=sys.stderr)
                return _EXIT_NEVER_QUIET
            others = OthersShare()
            with Pace() as pace:
                found = launch(planned, tally.kept + tally.replaced)
            share, uneven = others.so_far(), pace.unevenness()
            if share > _OTHERS_LIMIT or uneven > _PACE_LIMIT:
                tally.replaced += 1
                tally.flags_of_replaced.update(
                    check.name for check in flagged(found) if check.weight is not Weight.NOISY
                )
                print(
                    f"replaced: others used {share:.1%}, and a list took {uneven:.2f}x as long to "
                    f"sort at times; flags {[check.name for check in flagged(found)] or 'none'}",
                    file=sys.stderr,
                    flush=True,
                )
                continue
            count(tally, found)
            print(
                f"launch {tally.kept}: {found.samples_per_s:.0f} samples/s, others {share:.1%}, "
                f"sorting {uneven:.2f}x, "
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
            f"flags other than noise: {dict(tally.flags) or 'none'}; "
            f"of those replaced: {dict(tally.flags_of_replaced) or 'none'}"
        )
        print("\n".join(tally.evidence))
    return _EXIT_ALARM if tally.flags else 0


if __name__ == "__main__":
    sys.exit(main())
