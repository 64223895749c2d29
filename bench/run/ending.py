"""Judging how a launch ended from what it left behind: exit codes, failures, logs and counters.

Told apart: what a rank reported, a rank that died because another had gone, a memory limit, the
kernel's out-of-memory killer, other kills, and an end without a result. Torch-free.
"""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.backends.base import Backend
from bench.backends.temporary import TemporaryError, remedy, told
from bench.results.record import CheckResult, Launch, Outcome, Phase
from bench.run.scrubbing import scrub
from bench.worker.job import Failure, FailureKind, failure_file, log_file

_TAIL_BYTES = 8192
_TAIL_LINES = 30
_OOM_WORDS = ("std::bad_alloc", "out of memory", "can't allocate memory", "Cannot allocate memory")
_OUTCOMES = {
    FailureKind.UNSUPPORTED: Outcome.UNSUPPORTED,
    FailureKind.OUT_OF_MEMORY: Outcome.OOM,
    FailureKind.COMPILE: Outcome.COMPILE_FAILED,
    FailureKind.UNSETTLED: Outcome.COMPILE_FAILED,
}
_REMEDIES = {
    Outcome.OOM: "lower batch_size, or use activation_checkpointing, or a machine with more memory",
    Outcome.COMPILE_FAILED: "the last lines of the log are the compiler's; where the case sets "
    "compile, run it with compile=none to see whether the model itself works",
    Outcome.TIMEOUT: "raise --timeout, or make the case smaller",
    Outcome.HANG: "the log tail shows where the rank stood",
}
_NO_VICTIMS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Signals that no process gets because another one has gone."""
_SEEN_LATE_S = 0.5
_LOOKED_S = 0.1
"""A rank is looked at so often: an end may have been seen by so much later than it came."""
_PORT_TAKEN = ("EADDRINUSE", "address already in use")
_REMEDY_PORT = (
    "another program has the port at which the ranks meet: run the case again; torchrun is told "
    "another one by --master-port, and the ranks of an srun by MASTER_PORT"
)
_LOADER_KILLED = re.compile(
    r"DataLoader worker \(pid(\(s\))? [\d, ]+\) (is killed by signal: Killed|exited unexpectedly)"
)
"""Which of the two torch says depends on where its training process was at the time."""
_REMEDY_LOADER = (
    "lower data.workers, data.prefetch or batch_size, or use a machine with more memory"
)
_REMEDY_UNSETTLED = "look for shapes or Python values that change from step to step"


@dataclass(frozen=True)
class End:
    """How a launch ended that has no figures."""

    outcome: Outcome
    phase: Phase
    reason: str
    remedy: str | None = None
    log_tail: str | None = None
    bad_case: bool = False
    """The case itself is wrong: a usage error rather than a result."""


def oom_kills(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how often the kernel has killed for memory so far, here or in our container.

    The same kill may count twice, so only a rise tells anything.
    """
    total = 0
    for path in (
        proc / "vmstat",
        cgroup / "memory.events",
        cgroup / "memory/memory.oom_control",
    ):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue  # this kernel or container keeps no such counter
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                total += int(value)
    return total


def judge(
    folder: Path,
    codes: Sequence[int | None],
    phases: Sequence[Phase],
    killed_for_memory: bool,
    backend: Backend | None = None,
    ended_at: Sequence[float | None] | None = None,
) -> End:
    """Return how a launch ended of which at least one rank failed.

    Args:
        folder: Of the launch.
        codes: Exit code per rank as subprocess gives it (negative: a signal); null where we ended
            the rank ourselves after another one had failed.
        phases: Last phase that each rank announced.
        killed_for_memory: The kernel's out-of-memory counter rose during the launch.
        backend: Knows the words of its compiler and of its device; null: there are none.
        ended_at: When each rank was seen to have ended, in seconds since the epoch; null: nobody
            looked.
    """
    failures = {failure.rank: failure for failure in failures_of(folder, range(len(codes)))}
    culprit = _culprit(failures, codes, ended_at or [None] * len(codes))
    several = f"rank {culprit}: " if len(codes) > 1 else ""
    tail = log_tail(folder, culprit)
    failure = failures.get(culprit)
    if failure is not None:
        end = reported(failure, several, tail)
        if killed_for_memory and _LOADER_KILLED.search(failure.message):
            return replace(end, outcome=Outcome.OOM, remedy=_REMEDY_LOADER)
        return end
    outcome, reason = _without_words(codes[culprit], tail or "", killed_for_memory, backend)
    return End(
        outcome=outcome,
        phase=phases[culprit],
        reason=several + reason,
        remedy=_REMEDIES.get(outcome),
        log_tail=tail,
    )


def reported(failure: Failure, prefix: str = "", tail: str | None = None) -> End:
    """Return the end that a rank reported itself."""
    outcome = _OUTCOMES.get(failure.kind, Outcome.CRASH)
    bad_case = failure.kind is FailureKind.BAD_CASE
    return End(
        outcome=outcome,
        phase=failure.phase,
        # A bad case is never recorded, and its user must recognise the path that was named.
        reason=prefix + (failure.message if bad_case else scrub(failure.message)),
        remedy=_remedy(failure, outcome),
        log_tail=tail,
        bad_case=bad_case,
    )


def _remedy(failure: Failure, outcome: Outcome) -> str | None:
    if failure.kind is FailureKind.UNSETTLED:
        return _REMEDY_UNSETTLED
    if any(words.lower() in failure.message.lower() for words in _PORT_TAKEN):
        return _REMEDY_PORT
    return _REMEDIES.get(outcome)


def not_started(error: OSError | TemporaryError) -> End:
    """Return the end of a launch that this machine had no room for: files, memory, processes."""
    if isinstance(error, TemporaryError):
        reason, what_to_do = error.reason, error.remedy
    else:
        reason, what_to_do = f"the launch cannot be started: {told(error)}", remedy(error)
    return End(outcome=Outcome.CRASH, phase=Phase.START, reason=scrub(reason), remedy=what_to_do)


def not_finite(launch: Launch, tail: str | None = None) -> End | None:
    """Return the end of a launch whose loss is no number; null: it is one."""
    for check in launch.audit:
        if check.name == "loss_finite" and check.result is CheckResult.FAIL:
            return End(
                outcome=Outcome.NAN,
                phase=Phase.MEASURE,
                reason=f"the loss is not finite: {check.evidence}",
                remedy="lower learning_rate, or choose a precision with more range",
                log_tail=tail,
            )
    return None


def stopped(
    folder: Path,
    outcome: Outcome,
    phase: Phase,
    reason: str,
    rank: int,
    tail: str | None = None,
) -> End:
    """Return the end of a launch that we stopped ourselves; its log is that of the rank."""
    return End(
        outcome=outcome,
        phase=phase,
        reason=scrub(reason),
        remedy=_REMEDIES.get(outcome),
        log_tail=tail or log_tail(folder, rank),
    )


def log_tail(folder: Path, rank: int) -> str | None:
    """Return the last lines that a rank printed, without host name, user or private paths."""
    text = log_end(folder, rank, _TAIL_BYTES)
    return None if text is None else tail_of(text)


def log_end(folder: Path, rank: int, most_bytes: int) -> str | None:
    """Return the end of what a rank printed, as it is; null: nothing is there."""
    try:
        with log_file(folder, rank).open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - most_bytes))
            return log.read().decode(errors="replace")
    except OSError:
        return None


def tail_of(text: str) -> str | None:
    """Return the last lines of what was printed, as `log_tail` does; null: there is nothing."""
    printable = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)
    return scrub("\n".join(printable.splitlines()[-_TAIL_LINES:])) or None


def failures_of(folder: Path, ranks: Iterable[int]) -> list[Failure]:
    """Return what those of the ranks left that could say why they ended."""
    paths = [failure_file(folder, rank) for rank in ranks]
    return [Failure.model_validate_json(path.read_bytes()) for path in paths if path.exists()]


def _culprit(
    failures: dict[int, Failure],
    codes: Sequence[int | None],
    ended_at: Sequence[float | None],
) -> int:
    """Return the rank whose end explains the others'.

    A rank that lost its peer is never to blame while another has a reason of its own. Of those that
    have one, were killed, or ended without a word, it is the first. What a victim says is not
    always known for what it is, and follows at once, while an end is seen a little later than it
    came.
    """
    first = [(f.time, f.rank) for f in failures.values() if f.kind is not FailureKind.PEER]
    for rank, code in enumerate(codes):
        if code is not None and code != 0 and rank not in failures:
            seen = ended_at[rank]
            # Whoever ends a group from outside sends this one to all of it.
            known = seen is not None and -code != signal.SIGTERM
            first.append((seen - _late_s(code) if seen is not None and known else math.inf, rank))
    if first:
        return min(first)[1]
    for rank, code in enumerate(codes):
        # All that failed lost a peer: it is the one that left early and said nothing.
        if failures and code == 0:
            return rank
    if failures:
        return min(failures.values(), key=lambda f: f.time).rank
    return 0


def _late_s(code: int) -> float:
    """Return how much later than it came an end may have been seen. Unit: seconds."""
    if code > 0:
        return _LOOKED_S  # and no more: a library may end a victim so
    return _SEEN_LATE_S if -code in _NO_VICTIMS else 0.0


def _without_words(
    code: int | None, tail: str, killed_for_memory: bool, backend: Backend | None
) -> tuple[Outcome, str]:
    if code == 0:
        return Outcome.CRASH, "the process ended with exit code 0 and left no result"
    if code is not None and code < 0:
        name = _signal_name(-code)
        if -code == signal.SIGKILL and killed_for_memory:
            return Outcome.OOM, "killed by the kernel for want of memory (SIGKILL)"
        memory = (*_OOM_WORDS, *(() if backend is None else backend.memory_words))
        if -code == signal.SIGABRT and any(words in tail for words in memory):
            return Outcome.OOM, "aborted because memory could not be allocated (SIGABRT)"
        compiler = () if backend is None else backend.compiler_words
        if -code == signal.SIGABRT and any(words in tail for words in compiler):
            return Outcome.COMPILE_FAILED, "aborted because a graph could not be compiled (SIGABRT)"
        return Outcome.CRASH, f"killed from outside or by a fault of its own ({name})"
    return Outcome.CRASH, f"the process ended with exit code {code} and gave no reason"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # real-time signals have no name of their own
