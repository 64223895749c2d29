"""One launch of one case from the parent's side: start it, watch it, and say how it ended.

A rank that goes on stepping is alive; one that has stepped and falls silent is hung; everything
else is bounded by the case's timeout.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from bench.backends import registry
from bench.backends.temporary import TemporaryError, temporary_folder
from bench.results.health import HealthRun
from bench.results.record import Launch, Outcome, Phase, Precompiled
from bench.run import ending
from bench.run.ending import End
from bench.run.group import Group
from bench.run.plan import Planned
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
_HANG_FACTOR = 10.0
_STEADY_GROUPS = 2
"""Step groups after which a rank's silence is judged; before, only the case's timeout is."""
_STEPPING = (Phase.WARM_UP, Phase.MEASURE, Phase.HEALTH)

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


class Interrupted(Exception):  # noqa: N818 - the user's wish, not an error
    """The run was asked to stop while a launch was under way; the launch is gone."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(f"interrupted in phase {phase}")
        self.phase = phase


class _Pulse:
    """When each rank was last heard of, how long it is usually silent, and what time is its own."""

    def __init__(self, ranks: int, hang_s: float) -> None:
        self._rested_s = 0.0
        self._rests_from: float | None = None
        self._heard: list[float | None] = [None] * ranks
        self._steps = [0] * ranks
        self._longest = 0.0
        self._hang_s = hang_s
        self.phases = [Phase.START] * ranks

    def hear(self, event: Event) -> None:
        if not 0 <= event.rank < len(self.phases):
            return  # not from us: a program under test may write to any descriptor it inherits
        now = time.monotonic()
        self.phases[event.rank] = event.phase
        if event.rank == 0:
            self._rested_s = self.rested_s()
            self._rests_from = now if event.waiting is not None else None
        before = self._heard[event.rank]
        if event.phase not in _STEPPING or event.waiting is not None:
            self._heard[event.rank] = None
            return
        if event.expected_s is not None:
            self._longest = max(self._longest, event.expected_s)
        if event.done is not None:
            self._steps[event.rank] += 1
            if before is not None:
                self._longest = max(self._longest, now - before)
        self._heard[event.rank] = now

    def rested_s(self) -> float:
        """Return how long the launch has waited for its turns, which is another's time."""
        now = time.monotonic()
        return self._rested_s + (0.0 if self._rests_from is None else now - self._rests_from)

    def silent_rank(self) -> tuple[int, float] | None:
        """Return the rank that has been silent for too long, and for how long."""
        now = time.monotonic()
        limit = max(self._hang_s, _HANG_FACTOR * self._longest)
        for rank, heard in enumerate(self._heard):
            # Until a rank steps steadily it may be compiling, which has no length to go by.
            steady = self._steps[rank] >= _STEADY_GROUPS
            if heard is not None and steady and now - heard > limit:
                return rank, now - heard
        return None


def environment_of(planned: Planned) -> dict[str, str]:
    """Return the environment of the case's processes, before their place in the world."""
    backend = registry.get(planned.backend)
    return (
        dict(os.environ)
        | registry.import_environment(planned.interpreter)
        | backend.environment(planned.case.knobs, planned.probe)
    )


def run(order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]) -> Launch | End:
    """Run one launch to its end; no process of it is left afterwards.

    Args:
        order: What to launch.
        on_event: Told of rank 0's progress.
        stop: Asked often; true ends the launch.

    Raises:
        Interrupted: `stop` said so.
    """
    try:
        with temporary_folder(_PREFIX) as folder:
            found = _run(order, _job(order, folder), on_event, stop, RESULT_FILE, Launch)
            if isinstance(found, End):
                return found
            return ending.not_finite(found, ending.log_tail(folder, 0)) or found
    except (OSError, TemporaryError) as error:
        return ending.not_started(error)


def run_health(
    order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]
) -> HealthRun | End:
    """Run one health pass to its end, as `run` does a launch.

    Raises:
        Interrupted: `stop` said so.
    """
    try:
        with temporary_folder(_PREFIX) as folder:
            job = _job(order, folder).model_copy(update={"purpose": "health", "diagnose": False})
            return _run(order, job, on_event, stop, HEALTH_FILE, HealthRun)
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
    return _untimed(order, stop, {"purpose": "compile", "jobs": jobs}, ranks=1)


def _untimed(
    order: Order,
    stop: Callable[[], bool],
    changes: dict[str, object],
    ranks: int | None = None,
) -> Precompiled | End:
    try:
        with temporary_folder(_PREFIX) as folder:
            job = _job(order, folder).model_copy(update={**changes, "diagnose": False})
            return _run(order, job, _unheard, stop, PRECOMPILED_FILE, Precompiled, ranks)
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
    ranks: int | None = None,
) -> Result | End:
    processes, folder = ranks or order.planned.case.knobs.processes, Path(job.folder)
    job_path = folder / JOB_FILE
    job_path.write_text(job.model_dump_json(by_alias=True), encoding="utf-8")
    if order.cache_folder is not None:
        order.cache_folder.mkdir(parents=True, exist_ok=True)
    environment = environment_of(order.planned) | order.cache_environment
    environment[JOB_VARIABLE] = str(job_path)
    if order.turn is not None:
        environment[TURN_VARIABLE] = str(order.turn)
    kills = ending.oom_kills()
    command = [order.planned.interpreter, "-P", "-m", "bench.worker.main"]
    inherited = () if order.turn is None else (order.turn,)
    group = Group(command, environment, processes, folder, inherited)
    pulse = _Pulse(processes, order.planned.case.measure.hang_s)
    try:
        end = _watch(group, pulse, order, folder, on_event, stop)
    finally:
        group.kill()
    if end is not None:
        return end
    result = folder / result_file
    if any(code != 0 for code in group.codes) or not result.exists():
        killed = ending.oom_kills() > kills
        adapter = registry.get(order.planned.backend)
        return ending.judge(folder, group.codes, pulse.phases, killed, adapter)
    try:
        return kind.model_validate_json(result.read_bytes())
    except ValidationError as error:
        return ending.stopped(
            folder, Outcome.CRASH, Phase.REPORT, f"its result cannot be read: {error}", 0
        )


def _job(order: Order, folder: Path) -> Job:
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
        in_turns=order.turn is not None,
        cpus=order.cpus,
    )


def _watch(
    group: Group,
    pulse: _Pulse,
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
            group.ask_for_stacks()
            return ending.stopped(
                folder,
                Outcome.HANG,
                pulse.phases[rank],
                f"rank {rank} had been stepping and was silent for {seconds:.0f} s",
                rank,
            )
        if now - begin - pulse.rested_s() > order.timeout_s:
            group.ask_for_stacks()
            return ending.stopped(
                folder,
                Outcome.TIMEOUT,
                pulse.phases[0],
                f"the case's time was up after {order.planned.case.measure.timeout_s:g} s",
                0,
            )
    return None
