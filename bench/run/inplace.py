"""Running under torchrun or srun: every rank is this very program, and runs one launch of one case.

The launcher is somebody else's, so what happens to a rank that dies is theirs to say; rank 0
records what it knows.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.backends import registry
from bench.backends.base import World
from bench.backends.drives import launch_folder
from bench.backends.placed import Placed, announce
from bench.backends.temporary import shared_folder
from bench.results import health
from bench.results.record import Health, Launch, Outcome
from bench.results.store import Store, Stored, new_id
from bench.run import ending, recording
from bench.run import meeting as meetings
from bench.run.exits import EXIT_CASE, EXIT_OK
from bench.run.plan import Planned, for_one_launch
from bench.run.progressing import launch_seed
from bench.scenarios.errors import ScenarioError
from bench.worker.events import Events
from bench.worker.job import MEETING_VARIABLE, Job
from bench.worker.main import RankFailed, run_rank

GRACE_S = 5.0
"""Other ranks wait so long before they end: rank 0 says or records first. Unit: seconds."""
_HERE = ("127.0.0.1", "::1", "localhost")
_ELSEWHERE = "192.0.2.1"
"""An address that is nobody's (RFC 5737): the way to it is the way out."""


def run(
    told: Placed,
    planned: Sequence[Planned],
    results: Path,
    write: Callable[[Sequence[Stored]], None],
) -> int:
    """Run the one case that was planned; returns the exit code of this rank.

    Args:
        told: This process among the ranks, and who started it.
        planned: The cases, of which there must be one.
        results: Folder that rank 0 records into.
        write: Prints rank 0's table.

    Raises:
        ScenarioError: there is not exactly one case, or it names something that does not exist.
    """
    # Whatever runs in this process finds its place where torchrun would have said it.
    announce(told, os.environ)
    case, place = _only(planned, told.launcher), told.world
    if place.nodes > 1 and (name := _interface(os.environ.get("MASTER_ADDR", ""))) is not None:
        # By itself gloo takes the address that the machine's own name has: on some, a loopback's.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    store = Store(results)
    if place.rank == 0:
        store.check_writable()
    session = new_id(datetime.now(UTC))
    launch: Launch | None = None
    end = recording.refused(case)
    if end is not None and place.rank != 0:
        # A launcher may end all ranks once one has failed: rank 0 speaks, after it has recorded.
        return EXIT_OK
    variables: dict[str, str] = {}
    if end is None:
        variables = registry.get(case.backend).environment(case.case.knobs, case.probe)
        os.environ.update(variables)
        try:
            launch = _launch(case, session, place)
        except RankFailed as failed:
            said = "".join(traceback.format_exception(failed.__cause__ or failed))
            end = ending.reported(failed.failure, tail=ending.tail_of(said))
            if end.bad_case:
                raise ScenarioError(case.title, end.reason) from failed
            if place.rank != 0:
                # Most failures meet all ranks, and rank 0 must record its own before we end it.
                time.sleep(GRACE_S)
    if place.rank == 0:
        launches = [] if launch is None else [launch]
        if end is None and (not_finite := ending.not_finite(launches[0])) is not None:
            launches, end = [], not_finite
        health_of_it = _no_health(case, told.launcher) if launches else None
        record = recording.record_of(case, session, launches, end, dict(os.environ), health_of_it)
        path = store.append(record)
        write([Stored(record, results, path.relative_to(results))])
    return EXIT_OK if end is None or end.outcome is Outcome.UNSUPPORTED else EXIT_CASE


def _interface(first: str) -> str | None:
    """Return the network interface by which this machine reaches the others; null: not known.

    Args:
        first: The address or the name of the first one.
    """
    for host in (first, _ELSEWHERE):
        try:
            family, _, _, _, address = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(address)  # which sends nothing
                own = str(probe.getsockname()[0])
        except OSError:
            continue
        # The first one's own name may mean a loopback address there, which nobody else reaches.
        if not ipaddress.ip_address(own.partition("%")[0]).is_loopback or host in _HERE:
            return meetings.interface(own)
    return None


def _no_health(planned: Planned, launcher: str) -> Health | None:
    if not planned.has_health_pass:
        return None
    case = planned.case
    return health.unknown(
        case.measure.health_steps,
        case.knobs.classes,
        f"the health pass needs processes of its own, which {launcher} does not start: run the "
        "case with --processes P to have it",
    )


def _only(planned: Sequence[Planned], launcher: str) -> Planned:
    if len(planned) != 1:
        names = ", ".join(p.case.case for p in planned)
        raise ScenarioError(
            launcher,
            f"every rank runs exactly one case, and these are {len(planned)}: {names}",
            f"choose one with --case, or leave {launcher} out and use --processes P, which "
            "launches the ranks of every case by itself",
        )
    return for_one_launch(planned[0])


def _launch(planned: Planned, session: str, place: World) -> Launch | None:
    drive = planned.case.knobs.zero.nvme_path
    with (
        _terminated_tidily(drive),
        launch_folder("bench-launch-", drive) as folder,
        compile_cache(place) as cache,
    ):
        variables = registry.get(planned.backend).compile_cache(
            planned.case.knobs, planned.probe, str(cache)
        )
        os.environ.update(variables or {})
        os.environ[MEETING_VARIABLE] = "env://"
        job = Job(
            case=planned.case,
            backend=planned.backend,
            probe=planned.probe,
            index=0,
            seed=launch_seed(planned.case.knobs.seed, 0),
            session=session,
            round=0,
            diagnose=planned.case.measure.diagnostics,
            cache="none" if variables is None else "cold",
            folder=str(folder),
            contents=dict(planned.contents),
        )
        return run_rank(job, place, Events(place.rank))


@contextlib.contextmanager
def _terminated_tidily(drive: str | None) -> Iterator[None]:
    """Have a launcher that terminates this rank leave no files on the drive of its user's.

    Where no drive is named, termination stays what it is: at once, inside a collective too.
    """
    if drive is None:
        yield
        return

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def compile_cache(place: World) -> Iterator[Path]:
    """Make the empty folder in which the ranks on this machine share compiled code, and remove it.

    Raises:
        TemporaryError: it cannot be made.
    """
    folder = shared_folder("bench-cache-")
    try:
        yield folder
    finally:
        # The first rank is the last to compile, unless the launch has failed. Then the launcher
        # ends the others, who may be writing still.
        if place.local_rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
