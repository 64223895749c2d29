"""`bench ab`: from two descriptions to pairs of launches, their records, and a verdict.

Exit codes: 0 B is the same or faster; 1 B is slower; 3 nothing can be told; 4 a side failed or its
backend is unavailable.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.backends.registry import Prober
from bench.cli import comparison_page, progress
from bench.cli.comparing import exit_code
from bench.cli.running import EXIT_CASE, EXIT_INTERRUPTED, EXIT_USAGE, probes, stop_on_signals, work
from bench.results import matching
from bench.results.store import Store, new_id
from bench.run import ab, inplace, pythons
from bench.run.plan import Planned, choose, plan
from bench.run.pythons import Python
from bench.run.turns import ByTurns, OneAfterTheOther, possible
from bench.scenarios.errors import ScenarioError

MOST_PAIRS = 100


@dataclass(frozen=True)
class SideRequest:
    """What the command line asks of one side."""

    name: str
    """`A` or `B`."""
    scenario: str
    settings: list[str]
    case: str | None
    python: str | None
    """Path of another interpreter; null is this one."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    a: SideRequest
    b: SideRequest
    backend: str | None
    pairs: int
    threshold_pct: float
    budget_s: float | None
    results: Path
    one_at_a_time: bool
    format: str


def run(request: Request) -> int:
    """Measure, record and print; returns the exit code.

    Raises:
        ScenarioError, BackendError, StoreError: bad input, before anything is measured.
    """
    if inplace.world() is not None:
        raise ScenarioError(
            "bench ab",
            "launches both sides itself, and has no meaning under torchrun",
            "leave torchrun out and use --set processes=P",
        )
    a, b = _sides(request)
    by_turns = possible(a, b) and not request.one_at_a_time
    sides = [
        ab.side_of(planned, name, request.pairs, budget_s=request.budget_s, by_turns=by_turns)
        for planned, name in ((a, "A"), (b, "B"))
    ]
    store = Store(request.results)
    store.check_writable()
    how = "windows by turns" if by_turns else "one launch after the other"
    print(f"{request.pairs} pairs of launches, {how}", file=sys.stderr)
    with stop_on_signals() as stopping:
        contest = ab.Contest(
            *sides,
            store=store,
            session=new_id(datetime.now(UTC)),
            listener=progress.listener(sys.stderr),
            stop=lambda: bool(stopping),
            play=ByTurns() if by_turns else OneAfterTheOther(),
        )
        contest.run()
    if contest.complaints:
        for complaint in contest.complaints:
            print(f"bench: {complaint}", file=sys.stderr)
        return EXIT_USAGE
    found = matching.paired(
        contest.a.stored, contest.b.stored, request.threshold_pct, contest.obstacle
    )
    comparison_page.write([found], [], request.format, sys.stdout)
    if contest.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_CASE if contest.failed else exit_code([found])


def _sides(request: Request) -> tuple[Planned, Planned]:
    """Return the two cases.

    Raises:
        ScenarioError: a side is not exactly one case, or the two do different work.
    """
    pythons_ = [_python(request.a), _python(request.b)]
    [probe] = probes(
        [] if request.backend is None else [request.backend],
        Prober(interpreter=pythons_[0].path),
    )
    found = []
    for side, python in zip((request.a, request.b), pythons_, strict=True):
        if python.path != pythons_[0].path:
            probe = Prober(interpreter=python.path).probe(probe.backend)
        item = work(side.scenario, side.settings, request.results)
        planned = choose(
            plan([item], [probe], {}, python), [] if side.case is None else [side.case]
        )
        if len(planned) > 1:
            names = ", ".join(p.case.case for p in planned)
            raise ScenarioError(
                f"{side.name} = {side.scenario}",
                f"makes {len(planned)} cases ({names}), and a side is exactly one",
                f"choose one with --case or --case-{side.name.lower()}",
            )
        found += planned
    a, b = found
    different = matching.other_work(a.case.knobs, b.case.knobs)
    if different is not None:
        raise ScenarioError(
            "bench ab",
            f"A and B do different work: {different}",
            "only the same work can be done faster; compare settings that do not change it",
        )
    return a, b


def _python(side: SideRequest) -> Python:
    if side.python is None:
        return pythons.own()
    return pythons.examine(side.python, f"--python-{side.name.lower()}")
