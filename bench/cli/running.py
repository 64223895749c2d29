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
from bench.cli import progress
from bench.results import table as tables
from bench.results.prices import Prices
from bench.results.record import Keys, Outcome
from bench.results.rows import rows_of
from bench.results.scratch import Scratch
from bench.results.store import Store, Stored, StoreError, new_id
from bench.run import inplace
from bench.run.plan import Planned, choose, plan
from bench.run.rounds import Rounds
from bench.scenarios import compose, overrides
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Case, Scenario

EXIT_OK, EXIT_USAGE, EXIT_CASE, EXIT_INTERRUPTED = 0, 2, 4, 130
_GOOD = (Outcome.OK, Outcome.UNSUPPORTED)
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
    for_our_launcher: list[str]
    """Options given that only our own launcher can honour."""


def run(request: Request) -> int:
    """Measure, record and print; returns the exit code.

    Raises:
        ScenarioError, BackendError, StoreError: bad input, before anything is measured.
    """
    world = inplace.world()
    if world is not None:
        _refuse_in_place(request)
        planned = _planned(request, world.size)
        return inplace.run(world, planned, request.results, lambda rows: _print(request, rows))
    store = Store(request.results)
    planned = _planned(request)
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
        )
        if request.resume:
            rounds.recover()
        records = rounds.run()
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

    listing.cases(_planned(request), request.format)
    return EXIT_OK


def _refuse_in_place(request: Request) -> None:
    for option in request.for_our_launcher:
        raise ScenarioError(
            option,
            "has no meaning under torchrun, where every rank runs one launch",
            "leave it out, or leave torchrun out and use --processes P",
        )


def _planned(request: Request, world_size: int | None = None) -> list[Planned]:
    settings = list(request.settings)
    if world_size is not None:
        settings.append(f"processes={world_size}")
    names = dict.fromkeys(request.scenarios)
    cases = [work(name, settings, request.results) for name in names]
    sweeps = overrides.parse_sweeps(request.sweeps)
    planned = choose(plan(cases, probes(request.backends, Prober()), sweeps), request.cases)
    if request.prices is not None:
        # Two prices for one device must not be found out when everything has been measured.
        for item in planned:
            request.prices.of(
                device=item.probe.device_model or "no device",
                backend=item.backend,
                processes=item.case.knobs.processes,
            )
    return planned


def work(name: str, settings: Sequence[str], results: Path) -> Scenario | Case:
    """Return the scenario, or the case of a record, that an argument names.

    Raises:
        ScenarioError, StoreError: it names neither, or a setting is wrong.
    """
    if name.endswith(".json"):
        try:
            case = Store(results).find(name).record.requested
        except StoreError as error:
            raise StoreError(f"{name}: cannot be repeated: {error}") from error
        return overrides.with_overrides(case, settings)
    return compose.load(name, settings)


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
    wanted = {_name(p.keys, p.case) for p in planned}
    newest: dict[_Name, Stored] = {}
    for item in store.records():
        name = _name(item.record.keys, item.record.requested)
        if name in wanted and item.record.outcome in _GOOD:
            newest[name] = item
    return newest


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
