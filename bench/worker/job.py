"""What passes between the parent and the ranks of a launch; torch-free, so that both can read it.

The parent writes one `Job` for all ranks. Ranks send `Event` lines over a pipe while they run, and
leave behind either the result (rank 0) or a `Failure` each.
"""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bench.backends.base import Probe, Refusal, World
from bench.results.record import Phase
from bench.scenarios.schema import Case, Strict

JOB_VARIABLE = "BENCH_JOB"
EVENTS_VARIABLE = "BENCH_EVENTS_FD"
PARENT_VARIABLE = "BENCH_PARENT_PID"
TURN_VARIABLE = "BENCH_TURN_FD"
MEETING_VARIABLE = "BENCH_MEETING"
"""Where the ranks meet, as torch.distributed has it; unset: at a file in the folder of the job."""

JOB_FILE = "job.json"
RESULT_FILE = "launch.json"
HEALTH_FILE = "health.json"
PRECOMPILED_FILE = "precompiled.json"
RENDEZVOUS_FILE = "rendezvous"


def failure_file(folder: Path, rank: int) -> Path:
    """Return where a rank that fails says why."""
    return folder / f"failure-{rank}.json"


def log_file(folder: Path, rank: int) -> Path:
    """Return where the output of a rank goes."""
    return folder / f"rank-{rank}.log"


def world_from_environment() -> World:
    """Return this process's place as our launcher sets it, in torchrun's words; alone without."""
    return World(
        rank=int(os.environ.get("RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        node=int(os.environ.get("GROUP_RANK", "0")),
    )


class Job(Strict):
    """One launch of one case."""

    case: Case
    backend: str
    probe: Probe
    index: int
    seed: int
    session: str
    round: int
    diagnose: bool
    cache: Literal["cold", "warm", "none"]
    folder: str
    """Of this launch alone: logs, rendezvous, result and failures."""
    contents: dict[str, str] | None = None
    """Digests of what the user's files said when the case was planned, by knob; null: nobody looked
    into them."""
    in_turns: bool = False
    """Before every window, wait for the parent's word that the launch beside this one rests."""
    cpus: tuple[int, ...] | None = None
    """From the first step on, compute on these; null: on any."""
    cpus_of_ranks: tuple[tuple[int, ...], ...] | None = None
    """The CPUs of each of this machine's ranks, by local rank; null: any."""
    purpose: Literal["measure", "health", "precompile", "compile"] = "measure"
    """`health`: updates on one batch that all ranks share, and nothing timed. `precompile`: a few
    untimed steps, for the compile cache that they leave. `compile`: no step, and no device: what
    another run has noted is compiled."""
    notes: bool = False
    """The device notes its graphs and computes nothing: no value that it returns means anything."""
    jobs: int = 1
    """Of `compile`: graphs to compile at once."""


class FailureKind(enum.StrEnum):
    """What a rank knows about its own end; the parent judges over all ranks."""

    BAD_CASE = "bad_case"
    UNSUPPORTED = "unsupported"
    OUT_OF_MEMORY = "out_of_memory"
    COMPILE = "compile"
    UNSETTLED = "unsettled"
    """Compilation went on in every window."""
    PEER = "peer"
    """The rank failed because another one had gone."""
    EXCEPTION = "exception"


class Failure(Strict):
    """Why one rank could not finish."""

    rank: int
    kind: Annotated[FailureKind, Field(strict=False)]
    phase: Annotated[Phase, Field(strict=False)]
    message: str
    refusal: Refusal | None = None
    time: float
    """Seconds since the epoch, to tell who failed first."""


class Event(Strict):
    """A line on the events pipe."""

    rank: int
    phase: Annotated[Phase, Field(strict=False)]
    done: int | None = None
    """Windows finished in phase measure; steps in phase warm_up."""
    total: int | None = None
    samples_per_s: float | None = None
    """Running estimate of this launch, over all ranks."""
    expected_s: float | None = None
    """How long a window will take, so that its silence is not taken for a hang. Unit: seconds."""
    waiting: Literal["warm_up", "window", "end"] | None = None
    """The rank rests until it is given its turn: for the first step and warm-up, for a window, or
    for what comes after the last one."""
    rested_cpu_s: float | None = None
    """CPU time that the rank used while it waited for the turn it has now. Unit: seconds."""
