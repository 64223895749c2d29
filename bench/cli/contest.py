"""`bench ab`: from two descriptions to pairs of launches, their records, and a verdict.

Exit codes: 0 B is the same or faster; 1 B is slower, or does not learn; 3 nothing can be told; 4 a
side failed or its backend is unavailable.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bench.backends.placed import placed
from bench.backends.registry import Prober
from bench.cli import comparison_page, progress
from bench.cli.comparing import exit_code
from bench.cli.running import Work, probes, work
from bench.cli.stopping import stop_on_signals
from bench.results import matching
from bench.results.store import Store, new_id
from bench.run import ab, pythons
from bench.run.exits import EXIT_CASE, EXIT_INTERRUPTED, EXIT_USAGE
from bench.run.fitting import check_contents, check_nodes
from bench.run.plan import Planned, choose, plan
from bench.run.pythons import Python
from bench.run.turns import ByTurns, OneAfterTheOther, possible
from bench.scenarios import overrides
from bench.scenarios.errors import ScenarioError

_OURS = {
    "measure.launches": "--pairs",
    "measure.max_launches": "--pairs",
    "measure.precision_target": "--pairs",
    "measure.budget_s": "--budget",
    "measure.health": "--no-health",
}
"""Settings that a comparison works out for both sides alike, with the option for each."""


@dataclass(frozen=True)
class SideRequest:
    """What the command line asks of one side."""

    name: Literal["A", "B"]
    scenario: str
    settings: list[str]
    """Of both sides, then its own."""
    case: str | None
    case_option: str
    """The option that named the case."""
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
    timeout_s: float | None
    health: bool
    results: Path
    one_at_a_time: bool
    format: str


def run(request: Request) -> int:
    """Measure, record and print; returns the exit code.

    Raises:
        ScenarioError, BackendError, StoreError: bad input, before anything is measured.
    """
    if (told := placed()) is not None:
        raise ScenarioError(
            "bench ab",
            f"launches both sides itself, and has no meaning under {told.launcher}",
            f"leave {told.launcher} out and use --set processes=P",
        )
    if request.pairs % 2:
        raise ScenarioError(
            f"--pairs {request.pairs}",
            "leaves half of a block A B B A, in which each side goes first once",
            f"use --pairs {request.pairs + 1}",
        )
    a, b = _sides(request)
    check_nodes([a, b], 1)
    check_contents([a, b])
    by_turns = possible(a, b) and not request.one_at_a_time
    sides = [
        ab.side_of(planned, name, request.pairs, budget_s=request.budget_s, by_turns=by_turns)
        for planned, name in ((a, request.a.name), (b, request.b.name))
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
    sides = (request.a, request.b)
    works = [work(side.scenario, _settings(request, side), request.results) for side in sides]
    [probe] = probes(_backend(request, works), Prober(interpreter=pythons_[0].path))
    found = []
    for side, item, python in zip(sides, works, pythons_, strict=True):
        if python.path != pythons_[0].path:
            probe = Prober(interpreter=python.path).probe(probe.backend)
        planned = choose(
            plan([item.item], [probe], {}, python),
            [] if side.case is None else [side.case],
            side.case_option,
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
    check_alike(a, b)
    return a, b


def check_alike(a: Planned, b: Planned) -> None:
    """Refuse two sides whose speeds must not be divided by one another.

    Raises:
        ScenarioError: they do different work, or the device of one of them alone is simulated.
    """
    different = matching.other_work(a.case.knobs, b.case.knobs)
    if different is not None:
        raise ScenarioError(
            "bench ab",
            f"A and B do different work: {different}",
            "only the same work can be done faster; compare settings that do not change it",
        )
    both_there = a.probe.available and b.probe.available
    if both_there and a.probe.simulated != b.probe.simulated:
        raise ScenarioError(
            "bench ab",
            matching.one_simulated("A" if a.probe.simulated else "B"),
            "run both sides on the device, or both simulated",
        )


def _settings(request: Request, side: SideRequest) -> list[str]:
    """Return the settings of a side, with those that have options of their own.

    Raises:
        ScenarioError: one of them is not for a side to set.
    """
    given = overrides.keys_given(side.settings)
    for key, option in _OURS.items():
        if key in given:
            raise ScenarioError(
                f"{side.name}: {key}", "is the same for both sides of a comparison", f"use {option}"
            )
    settings = [] if request.timeout_s is None else [f"measure.timeout_s={request.timeout_s!r}"]
    return settings + ([] if request.health else ["measure.health=false"]) + side.settings


def _backend(request: Request, works: Sequence[Work]) -> list[str]:
    """Return the backend that was asked for, else that of the records; none: the best is used."""
    if request.backend is not None:
        return [request.backend]
    recorded = list(dict.fromkeys(found.backend for found in works if found.backend is not None))
    if len(recorded) > 1:
        raise ScenarioError(
            "bench ab",
            f"A is a record of backend {recorded[0]} and B one of {recorded[1]}",
            "name one for both with --backend",
        )
    return recorded


def _python(side: SideRequest) -> Python:
    if side.python is None:
        return pythons.own()
    return pythons.examine(side.python, f"--python-{side.name.lower()}")
