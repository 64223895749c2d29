"""Running under torchrun: every rank is this very program, and runs one launch of one case.

The launcher is somebody else's, so what happens to a rank that dies is theirs to say; rank 0
records what it knows.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.backends import registry
from bench.backends.base import World
from bench.backends.temporary import shared_folder, temporary_folder
from bench.results import health
from bench.results.record import Health, Launch, Outcome
from bench.results.store import Store, Stored, new_id
from bench.run import ending, recording
from bench.run.plan import Planned, for_one_launch
from bench.run.progressing import launch_seed
from bench.scenarios.errors import ScenarioError
from bench.worker.events import Events
from bench.worker.job import Job, world_from_environment
from bench.worker.main import RankFailed, run_rank

_EXIT_OK, _EXIT_CASE = 0, 4
GRACE_S = 5.0
"""Other ranks wait so long before they end: rank 0 says or records first. Unit: seconds."""


def world() -> World | None:
    """Return this process's place if torchrun started it, else null."""
    return world_from_environment() if "TORCHELASTIC_RUN_ID" in os.environ else None


def run(
    place: World,
    planned: Sequence[Planned],
    results: Path,
    write: Callable[[Sequence[Stored]], None],
) -> int:
    """Run the one case that was planned; returns the exit code of this rank.

    Args:
        place: This process among the ranks.
        planned: The cases, of which there must be one.
        results: Folder that rank 0 records into.
        write: Prints rank 0's table.

    Raises:
        ScenarioError: there is not exactly one case, or it names something that does not exist.
    """
    case = _only(planned)
    store = Store(results)
    if place.rank == 0:
        store.check_writable()
    session = new_id(datetime.now(UTC))
    launch: Launch | None = None
    end = recording.refused(case)
    if end is not None and place.rank != 0:
        # torchrun ends all ranks once one has failed: rank 0 speaks, after it has recorded.
        return _EXIT_OK
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
        record = recording.record_of(
            case, session, launches, end, dict(os.environ), _no_health(case) if launches else None
        )
        path = store.append(record)
        write([Stored(record, results, path.relative_to(results))])
    return _EXIT_OK if end is None or end.outcome is Outcome.UNSUPPORTED else _EXIT_CASE


def _no_health(planned: Planned) -> Health | None:
    if not planned.has_health_pass:
        return None
    case = planned.case
    return health.unknown(
        case.measure.health_steps,
        case.knobs.classes,
        "the health pass needs processes of its own, which torchrun does not start: run the case "
        "with --processes P to have it",
    )


def _only(planned: Sequence[Planned]) -> Planned:
    if len(planned) != 1:
        names = ", ".join(p.case.case for p in planned)
        raise ScenarioError(
            "torchrun",
            f"every rank runs exactly one case, and these are {len(planned)}: {names}",
            "choose one with --case, or leave torchrun out and use --processes P, which launches "
            "the ranks of every case by itself",
        )
    return for_one_launch(planned[0])


def _launch(planned: Planned, session: str, place: World) -> Launch | None:
    with temporary_folder("bench-launch-") as folder, compile_cache(place) as cache:
        variables = registry.get(planned.backend).compile_cache(
            planned.case.knobs, planned.probe, str(cache)
        )
        os.environ.update(variables or {})
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
        )
        return run_rank(job, place, Events(place.rank))


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
        # The first rank is the last to compile, unless the launch has failed. Then torchrun ends
        # the others, who may be writing still.
        if place.local_rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
