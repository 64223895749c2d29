"""What a run tells on stderr while it goes, and how long it says it will take."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from bench.backends.base import Probe, Refusal
from bench.cli.progress import PlainProgress, TerminalProgress, listener
from bench.results.record import Health, Keys, Outcome, Phase, Precompiled
from bench.results.statistics import summarise
from bench.results.store import Stored
from bench.run.ending import End
from bench.run.plan import Planned
from bench.run.rounds import Progressing
from bench.worker.job import Event
from tests.builders import a_case, a_record, launches_of


def a_progressing(name: str = "a", refused: bool = False, **measure: Any) -> Progressing:
    settings = {"launches": 2, "budget_s": 20.0, "warmup_s": 1.0, "health": False, **measure}
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


def stein(*samples_per_s: float) -> Progressing:
    case = a_progressing(launches=3, precision_target=2.0)
    case.launches = launches_of(*samples_per_s)
    return case


def the_tables(case: Progressing) -> str:
    found = summarise(case.launches, case.planned.case.measure)
    assert found.samples_per_s_low is not None
    assert found.samples_per_s_high is not None
    low, high = found.samples_per_s_low, found.samples_per_s_high
    return f"{found.samples_per_s:.4g} [{low:.4g}, {high:.4g}] samples/s"


def test_a_launch_is_told_with_the_estimate_so_far_and_its_interval(told: Told) -> None:
    case, launches = stein(), launches_of(100.0, 101.0, 99.0, 140.0)
    told.progress.begin([case])
    for launch in launches:
        told.lines()
        told.progress.launched(case, launch, 1.0)
        case.launches.append(launch)
        (line,) = told.lines()
        assert ("so far" in line) == (len(case.launches) > 1)
    # Stein's interval keeps the variance of the pilot, which a late launch cannot widen.
    assert line.startswith(f"  140 samples/s, so far {the_tables(case)} (")


@pytest.mark.parametrize("terminal", [False, True])
def test_the_line_that_stays_has_the_interval_of_the_record(terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    case = stein(100.0, 101.0, 99.0, 140.0)
    record = a_record(case.planned.case, launches=case.launches)
    case.stored = Stored(record, Path("results"), Path("a.json"))
    # What is printed is what the record says, whatever the launches at hand would give.
    case.launches = case.launches[:1]
    shown = listener(stream)
    shown.begin([case])
    shown.recorded(case)
    case.launches = list(record.launches)
    assert f"quick / a on cpu: measured, {the_tables(case)}\n" in stream.getvalue()


def test_the_line_that_is_rewritten_has_it_too() -> None:
    stream, case = Terminal(), stein(100.0, 101.0, 99.0, 140.0)
    shown = TerminalProgress(stream)
    shown._console.width = 200
    shown.begin([case])
    shown.launch(case, 4)
    shown.launched(case, case.launches[0], 1.0)
    assert f"so far {the_tables(case)}" in stream.getvalue()


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


def a_health(learns: bool | None, reason: str | None = None) -> Health:
    return Health(
        steps=10,
        loss_first=6.9,
        loss_last=4.25,
        loss_gap=0.125,
        first_loss_expected=6.9,
        learns=learns,
        reason=reason,
    )


def test_a_health_pass_is_expected_told_and_counted(told: Told) -> None:
    # Launches of 16 s, and of the two cases one that is examined for about 10 s.
    cases = [a_progressing("a", health=True), a_progressing("b")]
    told.progress.begin(cases)
    assert told.lines() == ["2 cases, 2 to launch, about 1:14"]
    told.progress.health(cases[0])
    told.progress.event(cases[0], event(Phase.HEALTH, done=0, total=10))
    told.time_s += 30.0
    told.progress.examined(cases[0], a_health(True), 30.0)
    assert told.lines() == [
        "quick / a on cpu: health pass",
        "  training on one batch 0/10 (0:00 of about 1:14)",
        "  it trains: loss 6.9 to 4.25 in 10 updates, +0.125 against fp32 "
        "(0:30; 0:30 of about 1:34)",
    ]


@pytest.mark.parametrize(
    ("learns", "words"),
    [(False, "it does not train: no update"), (None, "whether it trains is unknown: no update")],
)
def test_a_case_that_does_not_train_says_why(told: Told, learns: bool | None, words: str) -> None:
    case = a_progressing(health=True)
    told.progress.begin([case])
    told.progress.examined(case, a_health(learns, "no update"), 1.0)
    assert told.lines()[-1].startswith(f"  {words} (")
    stream = Terminal()
    shown = listener(stream)
    shown.begin([case])
    shown.health(case)
    shown.examined(case, a_health(learns, "no update"), 1.0)
    assert "health pass" in stream.getvalue()
    assert f"quick / a on cpu: {words}" in stream.getvalue()


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


COMPILED = Precompiled(compiles=3, seconds=20.0)
BROKEN = End(outcome=Outcome.COMPILE_FAILED, phase=Phase.FIRST_STEP, reason="no such kernel")


def test_what_is_compiled_beforehand_is_told_and_is_none_of_the_launches_time(told: Told) -> None:
    # A launch each, of 10 + 1 + 5 s.
    cases = [a_progressing(name, launches=1, budget_s=10.0) for name in "ab"]
    told.progress.begin(cases)
    told.lines()
    told.progress.precompile(cases)
    told.time_s += 20.0
    told.progress.precompiled(cases[0], COMPILED, 20.0)
    told.time_s += 10.0
    told.progress.precompiled(cases[1], COMPILED, 30.0)
    assert told.lines() == [
        "precompiling 2 cases",
        "  quick / a on cpu: 3 compiled (0:20)",
        "  quick / b on cpu: 3 compiled (0:30)",
    ]
    told.progress.launch(cases[0], 0)
    told.lines()
    told.progress.event(cases[0], event(Phase.BUILD))
    assert told.lines() == ["  building (0:30 of about 1:02)"]


def test_a_cache_that_could_not_be_filled_says_why(told: Told) -> None:
    case = a_progressing()
    told.progress.begin([case])
    told.progress.precompile([case])
    told.lines()
    told.progress.precompiled(case, BROKEN, 4.0)
    (line,) = told.lines()
    assert line == (
        "  quick / a on cpu: not precompiled: compile_failed in first_step: no such kernel (0:04)"
    )


HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"


def test_a_terminal_takes_the_line_about_caches_away_when_the_run_is_cut_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    cases = [a_progressing(name) for name in "ab"]
    shown = TerminalProgress(stream)
    shown.begin(cases)
    shown.precompile(cases)
    assert HIDDEN in stream.getvalue()
    assert SHOWN not in stream.getvalue()
    shown.over()
    assert stream.getvalue().rindex(SHOWN) > stream.getvalue().rindex(HIDDEN)


def test_plain_lines_end_with_the_last_record(told: Told) -> None:
    told.progress.begin([a_progressing()])
    told.lines()
    told.progress.over()
    assert told.lines() == []


def test_a_terminal_keeps_a_line_about_what_could_not_be_compiled_alone() -> None:
    stream = Terminal()
    cases = [a_progressing(name) for name in "ab"]
    shown = TerminalProgress(stream)
    shown.begin(cases)
    shown.precompile(cases)
    shown.precompiled(cases[0], COMPILED, 20.0)
    shown.precompiled(cases[1], BROKEN, 21.0)
    text = stream.getvalue()
    assert "quick / b on cpu: not precompiled: compile_failed in first_step" in text
    assert "quick / a on cpu" not in text
