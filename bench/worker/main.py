"""The entry of a rank: reads its job, runs what it asks for, and leaves a result or a failure.

Started as `python -m bench.worker.main` with the job's path in the environment. Whatever happens,
the rank says why it ended; what it cannot say (a kill, a hang) the parent finds out.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Collection
from pathlib import Path

from bench.backends import registry
from bench.backends.base import CompileFailed, Unsupported, World
from bench.backends.registry import BackendError
from bench.measure.target import ClockError
from bench.measure.windows import NoCleanWindow
from bench.results.health import HealthRun
from bench.results.record import Launch, Phase, Precompiled
from bench.worker import lifeline
from bench.worker.errors import CollectivesNotRealError
from bench.worker.events import Events
from bench.worker.job import (
    HEALTH_FILE,
    JOB_VARIABLE,
    PRECOMPILED_FILE,
    RESULT_FILE,
    Failure,
    FailureKind,
    Job,
    failure_file,
    world_from_environment,
)
from bench.workload.errors import BadCase

_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")
_PEER_WORDS = (
    "broken pipe",
    "connection closed by peer",
    "connection reset by peer",
    "remote process exited or there was a network error",
    "timed out waiting",
)
"""Of gloo and NCCL."""
_OURS = (BackendError, ClockError, CollectivesNotRealError, CompileFailed, Unsupported)
"""Their messages say what happened without the name of a class."""
_KINDS = (
    (BadCase, FailureKind.BAD_CASE),
    (NoCleanWindow, FailureKind.UNSETTLED),
    (Unsupported, FailureKind.UNSUPPORTED),
    (CompileFailed, FailureKind.COMPILE),
)
_COMPILER_MODULES = ("torch._dynamo", "torch._inductor", "torch_xla._dynamo")


def main() -> None:
    """Run one rank of the launch that the environment names."""
    lifeline.hold()
    job = Job.model_validate_json(Path(os.environ[JOB_VARIABLE]).read_bytes())
    world = world_from_environment()
    code = 0
    run, name = {
        "measure": (run_rank, RESULT_FILE),
        "health": (run_health, HEALTH_FILE),
        "precompile": (run_precompile, PRECOMPILED_FILE),
        "compile": (run_compile, PRECOMPILED_FILE),
    }[job.purpose]
    try:
        found = run(job, world, Events(world.rank))
    except RankFailed:
        code = 1
    else:
        if found is not None:
            write_atomically(Path(job.folder) / name, found.model_dump_json(by_alias=True))
    sys.stdout.flush()
    sys.stderr.flush()
    # Loader and runtime threads of some backends never end by themselves.
    os._exit(code)


class RankFailed(Exception):  # noqa: N818 - the failure itself has been written
    """This rank could not finish, and has left its failure behind."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def run_rank(job: Job, world: World, events: Events) -> Launch | None:
    """Run the launch on this rank; returns it on rank 0 and null elsewhere.

    Raises:
        RankFailed: after the reason was written into the job's folder and onto stderr.
    """
    try:
        events.enter(Phase.IMPORT)
        begin = time.perf_counter()
        from bench.worker import session

        return session.run(job, world, events, time.perf_counter() - begin)
    except Exception as error:
        raise _failed(error, job, world, events) from error


def run_health(job: Job, world: World, events: Events) -> HealthRun | None:
    """Run the health pass on this rank; returns what it saw on rank 0 and null elsewhere.

    Raises:
        RankFailed: after the reason was written into the job's folder and onto stderr.
    """
    try:
        events.enter(Phase.IMPORT)
        from bench.worker import health

        return health.run(job, world, events)
    except Exception as error:
        raise _failed(error, job, world, events) from error


def run_precompile(job: Job, world: World, events: Events) -> Precompiled | None:
    """Run the untimed steps on this rank; returns what was compiled on rank 0 and null elsewhere.

    Raises:
        RankFailed: after the reason was written into the job's folder and onto stderr.
    """
    try:
        events.enter(Phase.IMPORT)
        from bench.worker import precompile

        return precompile.run(job, world, events)
    except Exception as error:
        raise _failed(error, job, world, events) from error


def run_compile(job: Job, world: World, events: Events) -> Precompiled:
    """Compile what another run has noted.

    Raises:
        RankFailed: after the reason was written into the job's folder and onto stderr.
    """
    try:
        events.enter(Phase.FIRST_STEP)
        begin = time.perf_counter()
        graphs = registry.get(job.backend).compile_noted(job.jobs)
        return Precompiled(compiles=graphs, seconds=time.perf_counter() - begin)
    except Exception as error:
        raise _failed(error, job, world, events) from error


def _failed(error: Exception, job: Job, world: World, events: Events) -> RankFailed:
    traceback.print_exception(error)
    failure = describe(error, world.rank, events.phase, *_words(job.backend))
    write_atomically(failure_file(Path(job.folder), world.rank), failure.model_dump_json())
    return RankFailed(failure)


def describe(
    error: Exception,
    rank: int,
    phase: Phase,
    compiler_words: Collection[str] = (),
    memory_words: Collection[str] = (),
) -> Failure:
    """Return what a rank knows about its own end.

    Args:
        error: That ended it.
        rank: Its own.
        phase: In which it came.
        compiler_words: What an error says that the device's compiler has caused.
        memory_words: What one says for want of the device's memory.
    """
    text = f"{type(error).__name__}: {error}"
    kind = _kind(error, text.lower())
    if kind is FailureKind.EXCEPTION and any(words in text for words in memory_words):
        kind = FailureKind.OUT_OF_MEMORY
    if kind is FailureKind.EXCEPTION and any(words in text for words in compiler_words):
        kind = FailureKind.COMPILE
    return Failure(
        rank=rank,
        kind=kind,
        phase=phase,
        message=_message(error, text),
        refusal=error.refusal if isinstance(error, Unsupported) else None,
        time=time.time(),
    )


def _words(backend: str) -> tuple[Collection[str], Collection[str]]:
    """Return a backend's words for its compiler's errors, and for want of memory."""
    try:
        adapter = registry.get(backend)
    except BackendError:
        return (), ()  # that there is no such adapter is what is being told
    return adapter.compiler_words, adapter.memory_words


def _message(error: Exception, text: str) -> str:
    if isinstance(error, BadCase):
        return str(error)
    if isinstance(error, NoCleanWindow):
        return (
            "compilation never came to rest: a graph was compiled inside every window that was "
            f"tried ({error.voided})"
        )
    return _first_lines(str(error) if isinstance(error, _OURS) else text)


def _kind(error: Exception, text: str) -> FailureKind:
    for kind_of_error, kind in _KINDS:
        if isinstance(error, kind_of_error):
            return kind
    if isinstance(error, MemoryError) or any(words in text for words in _MEMORY_WORDS):
        return FailureKind.OUT_OF_MEMORY
    if any(words in text for words in _PEER_WORDS):
        return FailureKind.PEER
    if type(error).__module__.startswith(_COMPILER_MODULES):
        return FailureKind.COMPILE
    return FailureKind.EXCEPTION


def _first_lines(text: str, lines: int = 3, characters: int = 400) -> str:
    kept = " ".join(line.strip() for line in text.splitlines()[:lines] if line.strip())
    return kept if len(kept) <= characters else kept[: characters - 1] + "…"


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either whole or absent."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()
