"""`bench run`: from the options to the records and the table, with the right exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench.backends import bound, users_files
from bench.backends.base import Probe
from bench.backends.placed import Placed, placed
from bench.backends.registry import BackendError, Prober, names
from bench.backends.temporary import TemporaryError
from bench.cli import joining, progress
from bench.cli.joining import Together
from bench.cli.stopping import stop_on_signals
from bench.results import table as tables
from bench.results.prices import Prices
from bench.results.record import Keys, Outcome, Record
from bench.results.rows import rows_of
from bench.results.scratch import Scratch
from bench.results.store import Problem, Store, Stored, StoreError, new_id
from bench.run import inplace, launching, precompiling
from bench.run.exits import EXIT_CASE, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from bench.run.fitting import check_contents, check_nodes
from bench.run.health import HealthPass
from bench.run.launching import Start, start_here
from bench.run.plan import Planned, choose, plan
from bench.run.precompiling import Precompiler
from bench.run.rounds import Rounds
from bench.scenarios import compose, overrides
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Case, Scenario

_GOOD = (Outcome.OK, Outcome.UNSUPPORTED)
_FOR_OUR_LAUNCHER = {
    "measure.launches": "--launches",
    "measure.precision_target": "--precision-target",
    "measure.max_launches": None,
    "measure.timeout_s": "--timeout",
    "measure.hang_s": None,
    "measure.health_steps": None,
}
"""Settings that only our own launcher can honour, with the option of each."""

_Name = tuple[str, str, str]
"""Fingerprint, scenario and case."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    scenarios: list[str]
    backends: list[str]
    settings: list[str]
    sweeps: list[str]
    cases: list[str]
    results: Path
    resume: bool
    prices: Prices | None
    format: str
    precompile: bool = False
    together: Together | None = None
    """With which other nodes; null: this machine alone, or as somebody else's launcher says."""


@dataclass(frozen=True)
class Work:
    """What an argument names: a scenario, or the case of a record."""

    item: Scenario | Case
    backend: str | None = None
    """That the record is of; null: a scenario is of none."""


def run(request: Request) -> int:
    """Measure, record and print; returns the exit code.

    Raises:
        ScenarioError, BackendError, StoreError: bad input, before anything is measured.
        StoreError, TemporaryError: a folder can no longer be written to; what was recorded before
            has been printed.
    """
    told = placed()
    if request.together is not None:
        meeting = joining.meeting(request.together, told)
        planned = _planned(request, request.settings, Prober())
        check_nodes(planned, meeting.nodes)
        check_contents(planned)
        if meeting.nodes > 1:
            _precompiler(request, planned)  # not found out when all have met
        return joining.run(
            meeting, planned, lambda stopping, start: _measure(request, planned, stopping, start)
        )
    if told is not None:
        planned = _planned_in_place(request, told)
        check_contents(planned)
        return inplace.run(told, planned, request.results, lambda rows: _print(request, rows))
    planned = _planned(request, request.settings, Prober())
    check_nodes(planned, 1)
    check_contents(planned)
    with stop_on_signals() as stopping:
        return _measure(request, planned, stopping, start_here)


def _measure(
    request: Request, planned: Sequence[Planned], stopping: Sequence[int], start: Start
) -> int:
    """Run the rounds of what was planned, and print them; returns the exit code."""
    store = Store(request.results)
    precompiler = _precompiler(request, planned)
    store.check_writable()
    done = _already_done(store, planned) if request.resume else {}
    left = [p for p in planned if _name(p.keys, p.case) not in done]
    with Scratch(request.results) as scratch:
        rounds = Rounds(
            left,
            store=store,
            scratch=scratch,
            session=new_id(datetime.now(UTC)),
            listener=progress.listener(sys.stderr),
            stop=lambda: bool(stopping),
            runner=partial(launching.run, start=start),
            health=HealthPass(request.results, partial(launching.run_health, start=start)),
            precompiler=precompiler,
        )
        if request.resume:
            rounds.recover()
            _tell_of(scratch.problems)
        try:
            records = rounds.run()
        except (StoreError, TemporaryError):
            if rows := [*done.values(), *rounds.recorded]:
                _print(request, rows)
            raise
        scratch.sweep()
    complaints = [case.complaint for case in rounds.cases if case.complaint is not None]
    if (rows := [*done.values(), *records]) or not complaints:
        _print(request, rows)
    for complaint in complaints:
        print(f"bench: {complaint}", file=sys.stderr)
    if rounds.interrupted:
        return EXIT_INTERRUPTED
    if complaints:
        return EXIT_USAGE
    return EXIT_OK if all(item.record.outcome in _GOOD for item in records) else EXIT_CASE


def dry_run(request: Request) -> int:
    """Print the cases that would run, with what stands in their way; returns the exit code."""
    from bench.cli import listing

    planned = _planned(request, request.settings, Prober())
    check_contents(planned)
    _precompiler(request, planned)
    listing.cases(planned, request.format)
    return EXIT_OK


def _precompiler(request: Request, planned: Sequence[Planned]) -> Precompiler | None:
    """Return what compiles all cases first, as --precompile asks; null: it was not asked for.

    Raises:
        ScenarioError: it means nothing to these cases, or cannot be done for one of them.
    """
    if not request.precompile:
        return None
    if any(case.case.knobs.nodes > 1 for case in planned):
        raise ScenarioError(
            precompiling.OPTION,
            "fills the compile caches of one machine, and every node has its own",
            "leave the option out, or choose cases of one node with --case",
        )
    for case in precompiling.check(planned):
        print(
            f"{precompiling.OPTION}: {case.title} compiles nothing, and is launched as always",
            file=sys.stderr,
        )
    return Precompiler()


def _planned_in_place(request: Request, told: Placed) -> list[Planned]:
    """Return the cases as the ranks run them that somebody else's launcher has started.

    Raises:
        ScenarioError: something was asked for that only our own launcher can do, or a case sets
            another number of processes or nodes, or the nodes have different numbers of ranks.
    """
    launcher = told.launcher
    given = overrides.keys_given(request.settings)
    options = {"--resume": request.resume, precompiling.OPTION: request.precompile}
    refused = [option for option, given_it in options.items() if given_it]
    for key, option in _FOR_OUR_LAUNCHER.items():
        if key in given:
            refused.append(key if option is None else f"{key} ({option})")
    for place in refused:
        raise ScenarioError(
            place,
            f"has no meaning under {launcher}, where every rank runs one launch",
            f"leave it out, or leave {launcher} out and use --processes P",
        )
    if told.uneven:
        raise ScenarioError(
            launcher,
            f"it has started {told.local_size} of {told.world.size} ranks on this node, and "
            f"another number on others of {told.world.nodes}",
            "start as many on every node",
        )
    settings = list(request.settings)
    if "measure.budget_s" in given:
        # A scenario's budget is for all of its launches; what is given here is for this one.
        settings += ["measure.launches=1", "measure.precision_target=null"]
    bound.tell(told)
    prober = Prober()
    planned = _planned(request, settings, prober)
    if len(planned) != 1:
        return planned
    knobs, missing = planned[0].case.knobs, []
    for name, started in (("processes", told.world.size), ("nodes", told.world.nodes)):
        asked = getattr(knobs, name)
        if name not in knobs.model_fields_set:
            missing.append(f"{name}={started}")
        elif asked != started:
            raise ScenarioError(
                planned[0].title,
                f"it sets {name}={asked}, and {launcher} has started {started}",
                f"start {asked} with {launcher}, or set {name} to {started}",
            )
    return _planned(request, [*settings, *missing], prober) if missing else planned


def _planned(request: Request, settings: Sequence[str], prober: Prober) -> list[Planned]:
    by_backends: dict[tuple[str, ...], list[Scenario | Case]] = {}
    for name in dict.fromkeys(request.scenarios):
        found = work(name, settings, request.results)
        wanted = request.backends or ([] if found.backend is None else [found.backend])
        place = tuple(probe.backend for probe in probes(wanted, prober))
        by_backends.setdefault(place, []).append(found.item)
    sweeps = overrides.parse_sweeps(request.sweeps)
    everything = [
        case
        for place, items in by_backends.items()
        for case in plan(items, probes(place, prober), sweeps)
    ]
    planned = choose(everything, request.cases)
    if request.prices is not None:
        # Two prices for one device must not be found out when everything has been measured.
        for item in planned:
            request.prices.of(
                device=item.probe.device_model or "no device",
                backend=item.backend,
                devices=item.case.knobs.devices,
            )
    return planned


def work(name: str, settings: Sequence[str], results: Path) -> Work:
    """Return the scenario, or the case of a record with its backend, that an argument names.

    Raises:
        ScenarioError, StoreError: it names neither, or a setting is wrong.
    """
    if compose.is_scenario(name):
        return Work(compose.load(name, settings))
    try:
        record = Store(results).find(name).record
    except StoreError as error:
        if not name.endswith(".json"):
            return Work(compose.load(name, settings))
        raise StoreError(f"{name}: cannot be repeated: {error}") from error
    case = overrides.with_overrides(record.requested, settings)
    _check_repeatable(name, record, overrides.keys_given(settings))
    return Work(case, record.backend)


def _check_repeatable(name: str, record: Record, given: Sequence[str]) -> None:
    """See to it that the user's files say what they said when a record was made.

    Args:
        name: Of the record, for messages.
        record: Whose case is to be repeated.
        given: Settings that are given anew, whatever the record says.
    """
    for knob, file in users_files.named(record.requested.knobs).items():
        if knob in given or knob.partition(".")[0] in given:
            continue
        place = f"{name}: {knob}={file}"
        remedy = f"name a file by --set {knob}=FILE, whatever it says, or set {knob} to null"
        if not file.is_file():
            raise ScenarioError(place, "the file that the record names is not there", remedy)
        if users_files.digest(knob, file) != record.contents.get(knob):
            message = "the file says something else than when the record was made"
            raise ScenarioError(place, message, remedy)


def probes(backends: Sequence[str], prober: Prober) -> list[Probe]:
    """Return what is known of the backends that were asked for, or of the best available one.

    Raises:
        BackendError: one of them is unknown, or none was asked for and none is available.
    """
    if backends:
        return [prober.probe(name) for name in dict.fromkeys(backends)]
    best = prober.best()
    if best is None:
        reasons = "\n".join(f"  {name}: {prober.probe(name).reason}" for name in names())
        raise BackendError(
            f"no backend is available on this machine:\n{reasons}\n"
            'To measure on the CPU: pip install "accelbench[cpu]"'
        )
    return [best]


def _already_done(store: Store, planned: Sequence[Planned]) -> dict[_Name, Stored]:
    newest: dict[_Name, Stored] = {}
    for place, simulated in ((store, False), (store.simulated(), True)):
        wanted = {_name(p.keys, p.case) for p in planned if p.probe.simulated is simulated}
        if not wanted:
            continue
        for item in place.runs():
            name = _name(item.record.keys, item.record.requested)
            if name in wanted and item.record.outcome in _GOOD:
                newest[name] = item
        _tell_of(place.problems)
    return newest


def _tell_of(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(f"left aside: {problem}", file=sys.stderr)


def _name(keys: Keys, case: Case) -> _Name:
    return keys.fingerprint, case.scenario, case.case


def _print(request: Request, records: Sequence[Stored]) -> None:
    rows = rows_of(records, request.prices)
    tables.write(tables.Table(rows), tables.Format(request.format), sys.stdout)
