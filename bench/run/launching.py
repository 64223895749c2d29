"""One launch of one case from the parent's side: start it, watch it, and say how it ended.

A rank that goes on stepping is alive; one that has stepped and falls silent is hung; everything
else is bounded by the case's timeout.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from pydantic import ValidationError

from bench.backends import host, registry
from bench.backends.drives import launch_folder
from bench.backends.temporary import TemporaryError, temporary_folder
from bench.results.health import HealthRun
from bench.results.record import Launch, Outcome, Phase, Precompiled
from bench.run import ending, stacks
from bench.run.ending import End
from bench.run.group import Group, Ranks, Share
from bench.run.plan import Planned
from bench.run.pulse import Pulse
from bench.scenarios.schema import Strict
from bench.worker.job import (
    HEALTH_FILE,
    JOB_FILE,
    JOB_VARIABLE,
    PRECOMPILED_FILE,
    RESULT_FILE,
    TURN_VARIABLE,
    Event,
    Job,
)

_PREFIX = "bench-launch-"
_TICK_S = 0.1
_GRACE_S = 5.0
"""After one rank has failed, the others get this long to fail with a reason of their own."""

Result = TypeVar("Result", bound=Strict)


@dataclass(frozen=True)
class Order:
    """What to launch."""

    planned: Planned
    index: int
    seed: int
    session: str
    round: int
    timeout_s: float
    cache: Literal["cold", "warm", "none"]
    cache_folder: Path | None = None
    """Where compiled code is kept; null: nothing reads any."""
    cache_environment: dict[str, str] = field(default_factory=dict)
    """Where the case's processes find it, and what else an untimed run that fills it is told."""
    turn: int | None = None
    """Descriptor from which every rank reads a byte for each turn; null: it takes none."""
    cpus: tuple[int, ...] | None = None
    """The ranks compute on these; null: on any."""


class Start(Protocol):
    """Starts the ranks of a launch."""

    def __call__(
        self,
        order: Order,
        job: Job,
        command: list[str],
        environment: Mapping[str, str],
        inherited: Collection[int] = (),
    ) -> Ranks | End:
        """Return the running ranks; or how the launch ended, where they cannot be started.

        Args:
            order: What to launch.
            job: Of the ranks; it has been written into its folder.
            command: What every rank executes.
            environment: Of every rank, but for its place.
            inherited: Descriptors that every rank inherits.
        """


class Interrupted(Exception):  # noqa: N818 - the user's wish, not an error
    """The run was asked to stop while a launch was under way; the launch is gone."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(f"interrupted in phase {phase}")
        self.phase = phase


def environment_of(planned: Planned) -> dict[str, str]:
    """Return the environment of the case's processes, before their place in the world."""
    backend = registry.get(planned.backend)
    return (
        dict(os.environ)
        | registry.import_environment(planned.interpreter)
        | backend.environment(planned.case.knobs, planned.probe)
    )


def worker_command(planned: Planned) -> list[str]:
    """Return what every rank of a case executes."""
    return [planned.interpreter, "-P", "-m", "bench.worker.main"]


def start_here(
    order: Order,
    job: Job,
    command: list[str],
    environment: Mapping[str, str],
    inherited: Collection[int] = (),
) -> Ranks | End:
    """Start all ranks of a launch on this machine."""
    # One process compiles for all of them.
    ranks = 1 if job.purpose == "compile" else order.planned.case.knobs.processes
    return Group(command, environment, Share(ranks), Path(job.folder), inherited)


def run(
    order: Order,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
    start: Start = start_here,
) -> Launch | End:
    """Run one launch to its end; no process of it is left afterwards.

    Args:
        order: What to launch.
        on_event: Told of rank 0's progress.
        stop: Asked often; true ends the launch.
        start: What starts its ranks.

    Raises:
        Interrupted: `stop` said so.
    """
    try:
        with launch_folder(_PREFIX, order.planned.case.knobs.zero.nvme_path) as folder:
            job = job_of(order, folder)
            found = _run(order, job, on_event, stop, RESULT_FILE, Launch, start)
            if isinstance(found, End):
                return found
            return ending.not_finite(found, ending.log_tail(folder, 0)) or found
    except (OSError, TemporaryError) as error:
        return ending.not_started(error)


def run_health(
    order: Order,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
    start: Start = start_here,
) -> HealthRun | End:
    """Run one health pass to its end, as `run` does a launch.

    Raises:
        Interrupted: `stop` said so.
    """
    try:
        with launch_folder(_PREFIX, order.planned.case.knobs.zero.nvme_path) as folder:
            job = job_of(order, folder).model_copy(update={"purpose": "health", "diagnose": False})
            return _run(order, job, on_event, stop, HEALTH_FILE, HealthRun, start)
    except (OSError, TemporaryError) as error:
        return ending.not_started(error)


def precompile(order: Order, stop: Callable[[], bool], notes: bool) -> Precompiled | End:
    """Run the untimed steps of a case to their end, as `run` does a launch.

    Args:
        order: What to run; its cache is what is filled.
        stop: Asked often; true ends the run.
        notes: The device only notes its graphs.

    Raises:
        Interrupted: `stop` said so.
    """
    return _untimed(order, stop, {"purpose": "precompile", "notes": notes})


def compile_noted(order: Order, stop: Callable[[], bool], jobs: int) -> Precompiled | End:
    """Compile what the untimed run of a case has noted into its cache, so many graphs at once.

    Raises:
        Interrupted: `stop` said so.
    """
    return _untimed(order, stop, {"purpose": "compile", "jobs": jobs})


def _untimed(
    order: Order, stop: Callable[[], bool], changes: dict[str, object]
) -> Precompiled | End:
    try:
        with temporary_folder(_PREFIX) as folder:
            job = job_of(order, folder).model_copy(update={**changes, "diagnose": False})
            return _run(order, job, _unheard, stop, PRECOMPILED_FILE, Precompiled, start_here)
    except (OSError, TemporaryError) as error:
        return ending.not_started(error)


def _unheard(_event: Event) -> None:
    """Several untimed runs are alive at once, and how far each of them is does not matter."""


def _run(
    order: Order,
    job: Job,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
    result_file: str,
    kind: type[Result],
    start: Start,
) -> Result | End:
    folder = Path(job.folder)
    job_path = folder / JOB_FILE
    job_path.write_text(job.model_dump_json(by_alias=True), encoding="utf-8")
    if order.cache_folder is not None:
        order.cache_folder.mkdir(parents=True, exist_ok=True)
    environment = environment_of(order.planned) | order.cache_environment
    environment[JOB_VARIABLE] = str(job_path)
    if order.turn is not None:
        environment[TURN_VARIABLE] = str(order.turn)
    kills = ending.oom_kills()
    inherited = () if order.turn is None else (order.turn,)
    group = start(order, job, worker_command(order.planned), environment, inherited)
    if isinstance(group, End):
        return group
    pulse = Pulse(len(group.codes), order.planned.case.measure.hang_s)
    lost: str | None = None
    try:
        end = _watch(group, pulse, order, folder, on_event, stop)
        lost = group.lost
    finally:
        group.kill()
    if end is not None:
        return end
    if lost is not None:
        return ending.stopped(folder, Outcome.CRASH, pulse.phases[0], lost, 0)
    result = folder / result_file
    if any(code != 0 for code in group.codes) or not result.exists():
        killed = group.killed_for_memory or ending.oom_kills() > kills
        adapter = registry.get(order.planned.backend)
        return ending.judge(
            folder, group.codes, pulse.phases, killed, adapter, ended_at=group.ended_at
        )
    try:
        return kind.model_validate_json(result.read_bytes())
    except ValidationError as error:
        return ending.stopped(
            folder, Outcome.CRASH, Phase.REPORT, f"its result cannot be read: {error}", 0
        )


def job_of(order: Order, folder: Path) -> Job:
    """Return what the ranks of a launch are told."""
    return Job(
        case=order.planned.case,
        backend=order.planned.backend,
        probe=order.planned.probe,
        index=order.index,
        seed=order.seed,
        session=order.session,
        round=order.round,
        diagnose=order.index == 0 and order.planned.case.measure.diagnostics,
        cache=order.cache,
        folder=str(folder),
        contents=dict(order.planned.contents),
        in_turns=order.turn is not None,
        cpus=order.cpus,
        cpus_of_ranks=None if order.turn is not None else cpus_of_ranks(order.planned),
    )


def cpus_of_ranks(planned: Planned) -> tuple[tuple[int, ...], ...] | None:
    """Return the CPUs that each rank on this machine is kept on; null: they share what there is.

    Ranks that compute on the host get equal shares, so that none is moved to where another works.
    Where a device works beside the host, or a rank has more threads than its share has CPUs, the
    system chooses.
    """
    knobs = planned.case.knobs
    threads = registry.get(planned.backend).host_threads(knobs)
    if knobs.local_processes == 1 or threads is None or not hasattr(os, "sched_setaffinity"):
        return None
    shares = host.shares(knobs.local_processes)
    if shares is None or len(shares[0]) < threads:
        return None
    return tuple(tuple(share) for share in shares)


def _watch(
    group: Ranks,
    pulse: Pulse,
    order: Order,
    folder: Path,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
) -> End | None:
    """Return the end that we bring about ourselves, or null once the ranks have ended."""
    begin = time.monotonic()
    failed_at: float | None = None
    while not group.ended():
        for event in group.listen(_TICK_S):
            pulse.hear(event)
            if event.rank == 0:
                on_event(event)
        now = time.monotonic()
        if stop():
            raise Interrupted(pulse.phases[0])
        if failed_at is None and group.failed():
            failed_at = now
        if failed_at is not None and now - failed_at > _GRACE_S:
            return None
        silent = pulse.silent_rank()
        if silent is not None and failed_at is None:
            rank, seconds = silent
            astray = stacks.astray(group.ask_for_stacks())
            rank = rank if astray is None else astray
            reason = f"rank {rank} had been stepping and was silent for {seconds:.0f} s"
            if astray is not None:
                reason += ", and the others wait for it"
            elif len(group.codes) > 1:
                reason = f"which of the ranks hangs is not known: {reason}, the longest"
            return ending.stopped(
                folder,
                Outcome.HANG,
                pulse.phases[rank],
                reason,
                rank,
                stacks.tail(folder, rank),
            )
        if now - begin - pulse.rested_s() > order.timeout_s:
            astray = stacks.astray(group.ask_for_stacks())
            waiting = "" if astray is None else f"; the other ranks wait for rank {astray}"
            return ending.stopped(
                folder,
                Outcome.TIMEOUT,
                pulse.phases[astray or 0],
                f"the case's time was up after {order.planned.case.measure.timeout_s:g} s{waiting}",
                astray or 0,
                stacks.tail(folder, astray or 0),
            )
    return None
