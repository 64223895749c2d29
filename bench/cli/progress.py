"""Progress on stderr: what is being measured, how far it is, and how good the estimate is so far.

One line that rewrites itself on a terminal, a few plain lines per launch elsewhere. Nothing here
touches stdout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.text import Text

from bench.results import statistics
from bench.results.record import Health, Launch, Outcome, Phase, Precompiled, Statistics
from bench.run.ending import End
from bench.run.progressing import Listener, Progressing
from bench.worker.job import Event

_WORDS = {
    Phase.START: "starting",
    Phase.IMPORT: "importing",
    Phase.BUILD: "building",
    Phase.FIRST_STEP: "first step (compiling)",
    Phase.WARM_UP: "warming up",
    Phase.MEASURE: "measuring",
    Phase.DIAGNOSE: "diagnosing",
    Phase.HEALTH: "training on one batch",
    Phase.REPORT: "reporting",
}


_SAME_PHASE_S = 10.0
"""A plain line about a phase that goes on comes at most so often."""
_START_UP_S = 5.0
"""What a launch takes beside warm-up and windows, as long as none has been seen."""
_HEALTH_S = 10.0
"""What a health pass takes, as long as none has been seen."""


def listener(stream: TextIO) -> Listener:
    """Return the listener that fits the stream."""
    return TerminalProgress(stream) if stream.isatty() else PlainProgress(stream)


class _Clock:
    """How long the run has taken, and how long it may still take."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._begin = now()
        self._cases: Sequence[Progressing] = []
        self._seconds: dict[int, list[float]] = {}
        self._made: dict[int, int] = {}
        self._health: list[float] = []
        self._before_s = 0.0

    def begin(self, cases: Sequence[Progressing]) -> None:
        self._cases = cases
        self._begin = self._now()

    def note(self, case: Progressing, result: Launch | End, seconds: float) -> None:
        """Count a launch that has just ended, before the case has taken it."""
        self._seconds.setdefault(id(case), []).append(seconds)
        failed = isinstance(result, End)
        self._made[id(case)] = case.wanted if failed else len(case.launches) + 1

    def examined(self, seconds: float) -> None:
        """Count a health pass that has just ended."""
        self._health.append(seconds)

    def before_launches(self) -> None:
        """Count the time so far as none of a launch's."""
        self._before_s = self.elapsed_s()

    def elapsed_s(self) -> float:
        return self._now() - self._begin

    def expected_s(self) -> float:
        """Return the whole run's expected time.

        A launch to come takes as long as its case's last one, else as the mean of those seen, else
        as its budget and warm-up with an allowance for starting up. A health pass to come takes as
        long as the mean of those seen.
        """
        every = [s for seconds in self._seconds.values() for s in seconds]
        health_s = sum(self._health) / len(self._health) if self._health else _HEALTH_S
        passes = sum(_has_health_pass(case) for case in self._cases)
        total = self._before_s + sum(every) + sum(self._health)
        total += max(0, passes - len(self._health)) * health_s
        for case in self._cases:
            if case.planned.runnable and case.stored is None:
                own = self._seconds.get(id(case))
                made = max(len(case.launches), self._made.get(id(case), 0))
                left = max(0, case.wanted - made)
                if own:
                    total += left * own[-1]
                else:
                    total += left * (sum(every) / len(every) if every else _planned_s(case))
        return max(total, self.elapsed_s())


class PlainProgress:
    """A line when a launch starts and ends, and a few in between.

    Args:
        stream: Where the lines go.
        now: A clock that never goes back. Unit: seconds.
    """

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._now = now
        self._clock = _Clock(now)
        self._phase = Phase.START
        self._said_s = now()

    def begin(self, cases: Sequence[Progressing]) -> None:
        """Say how much there is to do, and about how long it takes."""
        self._clock.begin(cases)
        runnable = sum(case.planned.runnable for case in cases)
        time_needed = f", about {_duration(self._clock.expected_s())}" if runnable else ""
        self._say(f"{len(cases)} cases, {runnable} to launch{time_needed}")

    def precompile(self, cases: Sequence[Progressing]) -> None:
        """Say how many cases are compiled before the first launch."""
        self._say(f"precompiling {len(cases)} cases")

    def precompiled(self, case: Progressing, result: Precompiled | End, seconds: float) -> None:
        """Say what came of it."""
        self._clock.before_launches()
        self._say(f"  {case.planned.title}: {_compiled(result)} ({_duration(seconds)})")

    def launch(self, case: Progressing, round_number: int) -> None:
        """Say which launch starts."""
        self._phase = Phase.START
        self._say(
            f"round {round_number + 1}: {case.planned.title}: launch "
            f"{len(case.launches) + 1} of {case.wanted}"
        )

    def event(self, case: Progressing, event: Event) -> None:
        """Say which phase begins, and now and then how far a long one is."""
        if event.phase is self._phase and self._now() - self._said_s < _SAME_PHASE_S:
            return
        self._phase = event.phase
        self._said_s = self._now()
        side = "" if case.planned.side is None else f"{case.planned.side}: "
        self._say(f"  {side}{_so_far(event)} ({_times(self._clock)})")

    def launched(self, case: Progressing, result: Launch | End, seconds: float) -> None:
        """Say what came out, and how far the run is."""
        self._clock.note(case, result, seconds)
        if isinstance(result, End) and result.bad_case:
            return  # the command ends with a message of its own
        if isinstance(result, End):
            told = f"{result.outcome} in {result.phase}: {result.reason}"
        else:
            told = f"{result.samples_per_s:.4g} samples/s"
            if case.launches:
                told += f", so far {_estimate(case, [*case.launches, result])}"
        side = "" if case.planned.side is None else f"{case.planned.side}: "
        self._say(f"  {side}{told} ({_duration(seconds)}; {_times(self._clock)})")

    def health(self, case: Progressing) -> None:
        """Say that the health pass starts."""
        self._phase = Phase.START
        self._say(f"{case.planned.title}: health pass")

    def examined(self, case: Progressing, health: Health, seconds: float) -> None:
        """Say whether it trains."""
        self._clock.examined(seconds)
        self._say(f"  {_trains(health)} ({_duration(seconds)}; {_times(self._clock)})")

    def recorded(self, case: Progressing) -> None:
        """Say what the case came to."""
        self._say(f"  {case.planned.title}: {_summary(case)}")

    def over(self) -> None:
        """Say nothing: every line is there."""

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class TerminalProgress:
    """One line that tells case, round, phase, estimate and times; a line per finished case."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._status = Status("", console=self._console)
        self._clock = _Clock(time.monotonic)
        self._doing = ""
        self._number: dict[int, int] = {}
        self._left = 0
        """Cases whose compile caches are not filled yet."""

    def begin(self, cases: Sequence[Progressing]) -> None:
        """Number the cases."""
        self._clock.begin(cases)
        self._number = {id(case): number for number, case in enumerate(cases, start=1)}

    def precompile(self, cases: Sequence[Progressing]) -> None:
        """Show how many cases are compiled before the first launch."""
        self._left = len(cases)
        self._status.update(f"precompiling {self._left} cases")
        self._status.start()

    def precompiled(self, case: Progressing, result: Precompiled | End, seconds: float) -> None:
        """Show how many are left, and print a line that stays where something is wrong."""
        self._clock.before_launches()
        self._left -= 1
        self._status.update(f"precompiling {self._left} cases")
        if not isinstance(result, Precompiled):
            self._console.print(f"{escape(case.planned.title)}: {escape(_compiled(result))}")
        if not self._left:
            self._status.stop()

    def launch(self, case: Progressing, round_number: int) -> None:
        """Show which launch starts."""
        self._doing = f"round {round_number + 1}, launch {len(case.launches) + 1}/{case.wanted}"
        self._show(case, _WORDS[Phase.START])
        self._status.start()

    def event(self, case: Progressing, event: Event) -> None:
        """Show the phase and the running estimate."""
        self._show(case, _so_far(event))

    def launched(self, case: Progressing, result: Launch | End, seconds: float) -> None:
        """Take the line away until the next launch."""
        self._clock.note(case, result, seconds)
        self._status.stop()

    def health(self, case: Progressing) -> None:
        """Show that the health pass starts."""
        self._doing = "health pass"
        self._show(case, _WORDS[Phase.START])
        self._status.start()

    def examined(self, case: Progressing, health: Health, seconds: float) -> None:
        """Take the line away, and print one that stays where something is wrong."""
        self._clock.examined(seconds)
        self._status.stop()
        if health.learns is not True:
            self._console.print(f"{escape(case.planned.title)}: {escape(_trains(health))}")

    def recorded(self, case: Progressing) -> None:
        """Print a line that stays."""
        self._status.stop()
        self._console.print(f"{escape(case.planned.title)}: {escape(_summary(case))}")

    def over(self) -> None:
        """Take the line away, whatever it was about, and give the cursor back."""
        self._status.stop()

    def _show(self, case: Progressing, text: str) -> None:
        so_far = f" · so far {_estimate(case, case.launches)}" if case.launches else ""
        line = (
            f"[{self._number[id(case)]}/{len(self._number)}] {case.planned.title} · "
            f"{self._doing} · {_times(self._clock)} · {text}{so_far}"
        )
        # What does not fit is cut off: a line that wraps cannot rewrite itself.
        self._status.update(Text(line, no_wrap=True, overflow="ellipsis"))


def _planned_s(case: Progressing) -> float:
    """Return what a launch of the case should take, by its settings. Unit: seconds."""
    measure = case.planned.case.measure
    return measure.budget_s / measure.launches + measure.warmup_s + _START_UP_S


def _has_health_pass(case: Progressing) -> bool:
    failed = case.stored is not None and case.stored.record.outcome is not Outcome.OK
    return case.planned.has_health_pass and case.planned.runnable and not failed


def _compiled(result: Precompiled | End) -> str:
    if isinstance(result, Precompiled):
        return f"{result.compiles} compiled"
    return f"not precompiled: {result.outcome} in {result.phase}: {result.reason}"


def _trains(health: Health) -> str:
    if health.learns is None:
        return f"whether it trains is unknown: {health.reason}"
    if not health.learns:
        return f"it does not train: {health.reason}"
    gap = f", {health.loss_gap:+.3g} against fp32" if health.loss_gap else ""
    return (
        f"it trains: loss {health.loss_first:.4g} to {health.loss_last:.4g} in {health.steps} "
        f"updates{gap}"
    )


def _so_far(event: Event) -> str:
    text: str = _WORDS.get(event.phase, event.phase)
    if event.done is not None:
        text += f" {event.done}" if event.total is None else f" {event.done}/{event.total}"
    if event.samples_per_s is not None:
        text += f" · {event.samples_per_s:.4g} samples/s"
    return text


def _estimate(case: Progressing, launches: Sequence[Launch]) -> str:
    return _throughput(statistics.summarise(launches, case.planned.case.measure))


def _throughput(found: Statistics) -> str:
    low, high = found.samples_per_s_low, found.samples_per_s_high
    interval = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
    return f"{found.samples_per_s:.4g}{interval} samples/s"


def _summary(case: Progressing) -> str:
    if case.stored is None:
        return "no record"
    record = case.stored.record
    if record.statistics is not None:
        return f"{record.verdict}, {_throughput(record.statistics)}"
    return f"{record.outcome}: {record.reason}"


def _times(clock: _Clock) -> str:
    return f"{_duration(clock.elapsed_s())} of about {_duration(clock.expected_s())}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
