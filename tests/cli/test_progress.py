"""What a run tells on stderr while it goes, and how long it says it will take."""

from __future__ import annotations

import io
from typing import Any

import pytest

from bench.backends.base import Probe, Refusal
from bench.cli.progress import PlainProgress, TerminalProgress, listener
from bench.results.record import Keys, Outcome, Phase
from bench.run.ending import End
from bench.run.plan import Planned
from bench.run.rounds import Progressing
from bench.worker.job import Event
from tests.builders import a_case, launches_of


def a_progressing(name: str = "a", refused: bool = False, **measure: Any) -> Progressing:
    settings = {"launches": 2, "budget_s": 20.0, "warmup_s": 1.0, **measure}
    planned = Planned(
        case=a_case(name, measure=settings),
        backend="cpu",
        probe=Probe(backend="cpu", available=True),
        position=0,
        keys=Keys(work="work", series="series", fingerprint=name),
        refusals=[Refusal(knob="k", value=1, reason="no")] if refused else [],
    )
    return Progressing(planned, wanted=planned.case.measure.launches)


class Told:
    """Plain progress of which only the new lines are looked at, under a clock set by hand."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self._stream = io.StringIO()
        self.progress = PlainProgress(self._stream, lambda: self.time_s)

    def lines(self) -> list[str]:
        lines = self._stream.getvalue().splitlines()
        self._stream.seek(0)
        self._stream.truncate()
        return lines


@pytest.fixture
def told() -> Told:
    return Told()


def event(phase: Phase, **fields: Any) -> Event:
    return Event(rank=0, phase=phase, **fields)


def test_before_any_launch_the_time_follows_from_budget_warm_up_and_start(told: Told) -> None:
    # Launches of 20 / 2 + 1 + 5 = 16 s and of 90 / 3 + 0 + 5 = 35 s.
    cases = [
        a_progressing("a"),
        a_progressing("b", launches=3, budget_s=90.0, warmup_s=0.0),
        a_progressing("c", refused=True),
    ]
    told.progress.begin(cases)
    assert told.lines() == ["3 cases, 2 to launch, about 2:17"]


def test_launches_that_an_earlier_session_made_are_not_waited_for(told: Told) -> None:
    case = a_progressing()
    case.launches = launches_of(100.0)
    told.progress.begin([case])
    assert told.lines() == ["1 cases, 1 to launch, about 0:16"]


def test_where_nothing_can_be_launched_no_time_is_told(told: Told) -> None:
    told.progress.begin([a_progressing(refused=True)])
    assert told.lines() == ["1 cases, 0 to launch"]


def test_after_a_launch_its_own_time_counts(told: Told) -> None:
    case, other = a_progressing("a"), a_progressing("b")
    told.progress.begin([case, other])
    told.progress.launch(case, 0)
    told.time_s += 30.0
    (launch,) = launches_of(100.0)
    told.lines()
    # One of four has taken 30 s, so the whole takes about 120 s.
    told.progress.launched(case, launch, 30.0)
    assert told.lines() == ["  100 samples/s (0:30; 0:30 of about 2:00)"]
    case.launches.append(launch)
    told.progress.launch(other, 0)
    told.progress.event(other, event(Phase.BUILD))
    assert told.lines()[-1] == "  building (0:30 of about 2:00)"


def test_a_case_that_has_failed_takes_no_more_time(told: Told) -> None:
    case = a_progressing("a")
    told.progress.begin([case])
    told.progress.launch(case, 0)
    told.time_s += 5.0
    told.lines()
    end = End(outcome=Outcome.CRASH, phase=Phase.BUILD, reason="it fell over")
    told.progress.launched(case, end, 5.0)
    assert told.lines() == ["  crash in build: it fell over (0:05; 0:05 of about 0:05)"]


def test_every_phase_of_a_launch_has_one_line(told: Told) -> None:
    case = a_progressing()
    told.progress.begin([case])
    told.progress.launch(case, 0)
    told.lines()
    for phase in (Phase.IMPORT, Phase.BUILD, Phase.FIRST_STEP, Phase.WARM_UP, Phase.MEASURE):
        told.progress.event(case, event(phase))
        told.progress.event(case, event(phase, done=1))
        told.time_s += 1.0
    assert told.lines() == [
        "  importing (0:00 of about 0:32)",
        "  building (0:01 of about 0:32)",
        "  first step (compiling) (0:02 of about 0:32)",
        "  warming up (0:03 of about 0:32)",
        "  measuring (0:04 of about 0:32)",
    ]


def test_a_long_phase_tells_how_far_it_is_at_most_every_ten_seconds(told: Told) -> None:
    case = a_progressing(budget_s=2000.0)
    told.progress.begin([case])
    told.progress.launch(case, 0)
    told.progress.event(case, event(Phase.MEASURE))
    told.lines()
    for done in range(1, 8):
        told.time_s += 4.0
        told.progress.event(
            case, event(Phase.MEASURE, done=done, total=10, samples_per_s=done * 10.0)
        )
    assert told.lines() == [
        "  measuring 3/10 · 30 samples/s (0:12 of about 33:32)",
        "  measuring 6/10 · 60 samples/s (0:24 of about 33:32)",
    ]


def test_the_next_launch_begins_its_phases_anew(told: Told) -> None:
    case = a_progressing()
    told.progress.begin([case])
    for number in range(2):
        told.progress.launch(case, number)
        told.lines()
        told.progress.event(case, event(Phase.IMPORT))
        assert len(told.lines()) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_an_expected_time_from_the_first_moment() -> None:
    stream = Terminal()
    shown = listener(stream)
    assert isinstance(shown, TerminalProgress)
    case = a_progressing()
    shown.begin([case])
    shown.launch(case, 0)
    (launch,) = launches_of(100.0)
    shown.launched(case, launch, 1.0)
    assert "of about 0:32" in stream.getvalue()
