"""`bench run`: from the options to the records and the table, with the right exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from bench.backends.base import Probe
from bench.backends.registry import BackendError, Prober, names
from bench.backends.temporary import TemporaryError
from bench.cli import progress
from bench.results import table as tables
from bench.results.prices import Prices
from bench.results.record import Keys, Outcome
from bench.results.rows import rows_of
from bench.results.scratch import Scratch
from bench.results.store import Problem, Store, Stored, StoreError, new_id
from bench.run import inplace, precompiling
from bench.run.plan import Planned, choose, plan
from bench.run.precompiling import Precompiler
from bench.run.rounds import Rounds
from bench.scenarios import compose, overrides
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Case, Scenario

EXIT_OK, EXIT_USAGE, EXIT_CASE, EXIT_INTERRUPTED = 0, 2, 4, 130
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
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

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
    world = inplace.world()
    if world is not None:
        planned = _planned_in_place(request, world.size)
        return inplace.run(world, planned, request.results, lambda rows: _print(request, rows))
    store = Store(request.results)
    planned = _planned(request, request.settings, Prober())
    precompiler = _precompiler(request, planned)
    store.check_writable()
    done = _already_done(store, planned) if request.resume else {}
    left = [p for p in planned if _name(p.keys, p.case) not in done]
    with Scratch(request.results) as scratch, stop_on_signals() as stopping:
        rounds = Rounds(
            left,
            store=store,
            scratch=scratch,
            session=new_id(datetime.now(UTC)),
            listener=progress.listener(sys.stderr),
            stop=lambda: bool(stopping),
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
    for case in precompiling.check(planned):
        print(
            f"{precompiling.OPTION}: {case.title} compiles nothing, and is launched as always",
            file=sys.stderr,
        )
    return Precompiler()


def _planned_in_place(request: Request, ranks: int) -> list[Planned]:
    """Return the cases as so many ranks run them that somebody else's launcher has started.

    Raises:
        ScenarioError: something was asked for that only our own launcher can do, or a case sets
            another number of processes.
    """
    given = overrides.keys_given(request.settings)
    options = {"--resume": request.resume, precompiling.OPTION: request.precompile}
    refused = [option for option, given_it in options.items() if given_it]
    for key, option in _FOR_OUR_LAUNCHER.items():
        if key in given:
            refused.append(key if option is None else f"{key} ({option})")
    for place in refused:
        raise ScenarioError(
            place,
            "has no meaning under torchrun, where every rank runs one launch",
            "leave it out, or leave torchrun out and use --processes P",
        )
    settings = list(request.settings)
    if "measure.budget_s" in given:
        # A scenario's budget is for all of its launches; what is given here is for this one.
        settings += ["measure.launches=1", "measure.precision_target=null"]
    prober = Prober()
    planned = _planned(request, settings, prober)
    if len(planned) != 1:
        return planned
    knobs = planned[0].case.knobs
    if "processes" not in knobs.model_fields_set:
        return _planned(request, [*settings, f"processes={ranks}"], prober)
    if knobs.processes != ranks:
        raise ScenarioError(
            planned[0].title,
            f"it sets processes={knobs.processes}, and torchrun has started {ranks}",
            f"start {knobs.processes} with torchrun, or set processes to {ranks}",
        )
    return planned


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
                processes=item.case.knobs.processes,
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
    return Work(overrides.with_overrides(record.requested, settings), record.backend)


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


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Collect the signals that ask us to stop; a second one ends the program at once."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            # Whoever asks twice does not want to wait for records; the children die with us.
            os._exit(EXIT_INTERRUPTED)
        received.append(number)
        # Not print: the signal may have come in the middle of a print.
        os.write(2, b"\nstopping: recording what was measured (again to stop at once)\n")

    # What whoever started us has us ignore (nohup) stays ignored.
    heeded = [s for s in _STOPPING if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, note) for s in heeded}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
