"""A launch of the harness and a run of the hand-written loop, alive together, computing in turns.

While one computes the other waits, so both meet the same machine: on one that drifts by 10 %
within a minute, two runs after each other could not be told apart to 2 %. Where one thread
computes, both are kept on one and the same CPU. Both share a process, or each has its own: two
processes may differ for as long as they live.
This module must not import torch, and it must not decide anything from the numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sides import (
    TIMEOUT_S,
    HarnessValue,
    SideFailed,
    Workload,
    command,
    knobs_of,
    options,
    planned_case,
    script_environment,
)

from bench.backends import registry
from bench.backends.base import Probe
from bench.results.record import CheckResult, Launch
from bench.run import launching
from bench.run.plan import Planned
from bench.scenarios.schema import Measure
from bench.worker.job import Job

_USABLE_CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
_FIRST_STEPS = 20
_WARM_UP_S = 3.0
"""Of the hand-written loop; the harness decides about its own."""


@dataclass(frozen=True)
class Drawn:
    """One launch of each side. Unit: samples per second."""

    harness: HarnessValue
    handwritten: float

    @property
    def ratio(self) -> float:
        """Harness / hand-written: below 1 the harness is slower."""
        return self.harness.samples_per_s / self.handwritten


_WINDOWS_IN_STEP = 100
"""Where a fence has nothing to wait for: the finer the turns, the more alike the machine. Two
copies of the loop that take turns of 10 ms agree to 0.2 %, and with turns of 0.5 s to 2 %. Much
finer, and what a launch reads before a window, outside its time, cools the caches for much of it.
"""
_WINDOWS_BEHIND, _PERIODS_BEHIND = 60, 10
"""Where the device works behind the host: a fence costs the time in which its queue fills again,
and a launch has long windows for that. Here both sides pay it, so turns can be short: with turns of
2 s the ratios of pairs scattered by 4 %."""


class Side:
    """A process that answers lines of its standard input with lines of JSON."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._name = Path(argv[1]).name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        self._process = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._watchdog = threading.Timer(TIMEOUT_S, self._process.kill)
        self._watchdog.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def send(self, line: str) -> None:
        """Give the side its turn."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Return its next message, waiting for it.

        Raises:
            SideFailed: it ended instead.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            # Libraries print lines of their own.
            if line.startswith("{"):
                return json.loads(line)
        code = self._process.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
        tail = self._log.read().decode(errors="replace")
        raise SideFailed(f"{self._name} ended with exit code {code}:\n{tail}")


class Handwritten:
    """The hand-written loop, in whichever processes answer for its ranks."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self.seconds = 0.0
        self.steps = 0
        self._step_s = 0.0

    def warm_up(self) -> None:
        """Run its first steps, which compile, and then enough of them to settle."""
        self._run(_FIRST_STEPS)
        self._step_s = self._run(_FIRST_STEPS) / _FIRST_STEPS
        more = max(_FIRST_STEPS, round(_WARM_UP_S / self._step_s))
        self._step_s = self._run(more) / more

    def turn(self, seconds: float) -> None:
        """Time one block of about so many seconds, behind a step that fills the caches again."""
        steps = max(1, round(seconds / self._step_s))
        self._run(1)
        self.seconds += self._run(steps)
        self.steps += steps

    def _run(self, steps: int) -> float:
        return max(float(answer["seconds"]) for answer in _asked(self._sides, str(steps)))


class Harness:
    """A launch of the harness; the first side is its rank 0."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self.launch: Launch | None = None

    def warm_up(self) -> float:
        """Wait for it to come to its first window; returns a window's expected seconds."""
        first, *_ = [side.answer() for side in self._sides]
        return float(first["window_s"])

    def turn(self) -> None:
        """Let it time its next windows."""
        answer = _asked(self._sides, "")[0]
        if "launch" in answer:
            self.launch = Launch.model_validate_json(json.dumps(answer["launch"]))


def _asked(sides: Sequence[Side], line: str) -> list[Any]:
    """Return what every rank answers; all are asked before one is listened to."""
    for side in sides:
        side.send(line)
    return [side.answer() for side in sides]


def draw(
    probe: Probe,
    workload: Workload,
    *,
    source: str,
    threads: int,
    seconds: float,
    seed: int,
    number: int,
    one_process: bool,
    engine: Mapping[str, object] | None = None,
) -> Drawn:
    """Run one launch of either side, in turns.

    Args:
        probe: The backend, available.
        workload: What both train.
        source: Where batches come from.
        threads: Compute threads of either side.
        seconds: Inside the windows of the launch, and about as much for the loop.
        seed: Of both.
        number: Of the draw; odd ones let the loop begin.
        one_process: Run the loop inside the process of the launch; of more ranks, always.
        engine: Knobs that say who drives the step over how many ranks; null: one plain process.

    Raises:
        SideFailed: one of them gave no number.
    """
    knobs = knobs_of(workload, source=source, threads=threads, more=engine or {})
    if knobs.processes > 1 and not one_process:
        raise ValueError("the ranks of the loop are guests of the launch's: one_process=True")
    if threads == 1 and knobs.processes == 1 and probe.backend == "cpu":
        _stay_on_one_cpu(number)
    behind = registry.get(probe.backend).least_periods(knobs) > 1
    measure = Measure(
        launches=1,
        budget_s=seconds,
        windows=_WINDOWS_BEHIND if behind else _WINDOWS_IN_STEP,
        diagnostics=False,
        timeout_s=TIMEOUT_S,
    )
    planned = planned_case(probe, knobs, measure)
    with tempfile.TemporaryDirectory(prefix="bench-overhead-") as name:
        job = Path(name) / "job.json"
        job.write_text(_job(planned, seed, name).model_dump_json(by_alias=True), encoding="utf-8")
        loop: dict[str, object] = {
            "backend": planned.backend,
            "model": workload.model,
            "model-kwargs": json.dumps(workload.model_kwargs),
            "image-size": workload.image_size,
            "classes": workload.classes,
            "batch-size": workload.batch_size,
            "source": source,
            "threads": threads,
            "seed": seed,
            "engine": knobs.engine,
        }
        launch: dict[str, object] = {"job": job}
        if behind:
            launch["least-periods"] = _PERIODS_BEHIND
        if one_process:
            launch["guest"] = json.dumps(options(loop))
        environment = launching.environment_of(planned)
        with contextlib.ExitStack() as alive:
            ranks = [
                alive.enter_context(Side(command("harness_side.py", launch), environment | place))
                for place in _places(knobs.processes)
            ]
            ours = Harness(ranks)
            window_s = ours.warm_up()
            theirs = Handwritten(
                ranks
                if one_process
                else [
                    alive.enter_context(
                        Side(command("handwritten_loop.py", loop), script_environment(threads))
                    )
                ]
            )
            theirs.warm_up()
            return _in_turns(ours, theirs, window_s, number, workload.batch_size * len(ranks))


def _places(ranks: int) -> list[dict[str, str]]:
    """Return the variables that tell each rank its place."""
    return [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
        }
        for rank in range(ranks)
    ]


def _in_turns(
    ours: Harness, theirs: Handwritten, window_s: float, number: int, global_batch: int
) -> Drawn:
    turn = number
    while ours.launch is None:
        if turn % 2 == 0:
            ours.turn()
            # The process that answers for the loop may have ended with the launch.
            if ours.launch is None:
                theirs.turn(window_s)
        else:
            theirs.turn(window_s)
            ours.turn()
        turn += 1
    return Drawn(_value(ours.launch), theirs.steps * global_batch / theirs.seconds)


def _stay_on_one_cpu(number: int) -> None:
    """Keep this process, and those it starts, on the CPU whose turn it is."""
    if not hasattr(os, "sched_setaffinity"):
        return
    usable = sorted(_USABLE_CPUS)
    os.sched_setaffinity(0, {usable[number // 2 % len(usable)]})


def _job(planned: Planned, seed: int, folder: str) -> Job:
    return Job(
        case=planned.case,
        backend=planned.backend,
        probe=planned.probe,
        index=0,
        seed=seed,
        session="overhead",
        round=0,
        diagnose=False,
        cache="none",
        folder=folder,
        in_turns=True,
        cpus_of_ranks=launching.cpus_of_ranks(planned),
    )


def _value(launch: Launch) -> HarnessValue:
    failed = [check.name for check in launch.audit if check.result is CheckResult.FAIL]
    return HarnessValue(launch.samples_per_s, failed)
