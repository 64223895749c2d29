"""A number of a simulated device: wherever one is printed, its word stands beside it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from bench.backends.base import Probe
from bench.cli import comparison_page
from bench.cli.contest import check_alike
from bench.cli.progress import PlainProgress
from bench.cli.record_page import write_page
from bench.cli.record_verdict import verdict
from bench.results.matching import compare_folders
from bench.results.record import Check, CheckResult, Device, Health, Record, Verdict, Weight
from bench.results.store import Stored
from bench.run.plan import Planned
from bench.run.rounds import Progressing
from bench.scenarios.errors import ScenarioError
from tests.builders import a_case, a_record, launches_of
from tests.run.test_rounds import a_plan

CORE = Device(model="Core", count=1)
REAL, PRETENDED = False, True


def core(*, simulated: bool, available: bool = True) -> Probe:
    return Probe(backend="cpu", available=available, simulated=simulated)


def stored(*records: Record) -> list[Stored]:
    return [Stored(record, Path("results"), Path(f"runs/{record.id}.json")) for record in records]


def measured(simulated: bool, *samples_per_s: float, case: str = "x") -> Record:
    session = f"session-of-{samples_per_s}"
    launches = launches_of(*samples_per_s, session=session)
    return a_record(case, device=CORE, simulated=simulated, launches=launches, session=session)


def compared(a: bool, b: bool, format: str, cases: tuple[str, ...] = ("x",)) -> str:  # noqa: A002
    rows = compare_folders(
        stored(*(measured(a, 34.1, 34.2, 34.0, case=case) for case in cases)),
        stored(*(measured(b, 38.1, 38.2, 38.0, case=case) for case in cases)),
        2.0,
    )
    out = io.StringIO()
    comparison_page.write(rows, [], format, out, width=160)
    return out.getvalue()


class TestComparison:
    def test_the_page_of_two_says_it_of_both(self) -> None:
        told = compared(PRETENDED, PRETENDED, "rich")
        assert "A  quick / x on cpu: 34.10 samples/s, measured, simulated, 3 launches" in told
        assert "B  quick / x on cpu: 38.10 samples/s, measured, simulated, 3 launches" in told
        assert "B looks faster" in told

    def test_real_ones_say_nothing_of_it(self) -> None:
        for format in ("rich", "markdown"):  # noqa: A001
            assert "simulated" not in compared(REAL, REAL, format, ("x", "y"))

    def test_the_table_of_several_says_it_beside_the_figures(self) -> None:
        for format in ("rich", "markdown"):  # noqa: A001
            told = compared(PRETENDED, PRETENDED, format, ("x", "y"))
            assert told.count("34.10, simulated") == told.count("38.10, simulated") == 2

    def test_programs_read_it_of_either_side(self) -> None:
        assert '"simulated": true' in compared(PRETENDED, PRETENDED, "json")
        assert "a_simulated" in compared(PRETENDED, PRETENDED, "csv").splitlines()[0]

    @pytest.mark.parametrize(("a", "b", "name"), [(PRETENDED, REAL, "A"), (REAL, PRETENDED, "B")])
    def test_one_of_each_gets_no_ratio(self, *, a: bool, b: bool, name: str) -> None:
        told = compared(a, b, "markdown")
        assert "| INVALID |" in told
        assert f"the device of {name} is simulated, and the other is real" in told
        assert told.count(", simulated") == 1
        assert "x \\[" not in told


class TestSides:
    @pytest.mark.parametrize(("a", "b", "name"), [(True, False, "A"), (False, True, "B")])
    def test_of_which_one_is_real_are_refused_before_anything_runs(
        self, a: bool, b: bool, name: str
    ) -> None:
        sides = [a_plan("x", probe=core(simulated=simulated)) for simulated in (a, b)]
        with pytest.raises(ScenarioError, match=rf"bench ab: the device of {name} is simulated"):
            check_alike(*sides)

    @pytest.mark.parametrize("simulated", [True, False])
    def test_of_one_kind_are_not(self, simulated: bool) -> None:
        check_alike(*(a_plan("x", probe=core(simulated=simulated)) for _ in range(2)))

    def test_a_side_that_is_not_there_is_recorded_and_not_refused(self) -> None:
        gone = core(simulated=False, available=False)
        check_alike(a_plan("x", probe=core(simulated=True)), a_plan("x", probe=gone))


def progressing(*, simulated: bool) -> Progressing:
    planned: Planned = a_plan("x", probe=core(simulated=simulated))
    case = Progressing(planned, wanted=3)
    [case.stored] = stored(measured(simulated, 34.1, 34.2, 34.0))
    return case


@pytest.mark.parametrize(("simulated", "named"), [(True, "simulated cpu"), (False, "cpu")])
def test_progress_names_it_in_every_line_that_names_a_case(simulated: bool, named: str) -> None:
    case, out = progressing(simulated=simulated), io.StringIO()
    told = PlainProgress(out)
    told.begin([case])
    told.launch(case, 0)
    told.recorded(case)
    _, started, ended = out.getvalue().splitlines()
    assert started == f"round 1: quick / x on {named}: launch 1 of 3"
    assert ended.startswith(f"  quick / x on {named}: measured, 34.1")


class TestRecord:
    def test_its_page_never_says_that_it_can_be_believed(self) -> None:
        answer = verdict(measured(PRETENDED, 34.1, 34.2, 34.0))
        assert answer.short == "The device was simulated: this is no number of it"
        assert answer.sentences == (
            "A test bed pretended it, and something else computed in its place.",
            "It trains on cpu, Core, at 34.10 samples a second, and every audit check that "
            "applies passed in all 3 launches.",
        )
        real = verdict(measured(REAL, 34.1, 34.2, 34.0))
        assert real.short == "This number can be believed"

    @pytest.mark.parametrize(
        "fields",
        [
            {"verdict": Verdict.NOISY, "verdict_reason": "others used 50 %"},
            {"health": Health(steps=3, learns=False, reason="it stands still")},
            {"verdict": Verdict.SUSPECT, "verdict_reason": "fence_waits: 40 %"},
        ],
    )
    def test_whatever_else_is_to_be_said_follows(self, fields: dict[str, object]) -> None:
        case = a_case("x")
        real, pretended = (
            verdict(a_record(case, simulated=simulated, **fields))  # type: ignore[arg-type]
            for simulated in (REAL, PRETENDED)
        )
        assert pretended.short.startswith("The device was simulated")
        assert pretended.sentences[1:] == real.sentences

    def test_what_failed_keeps_its_paragraph(self) -> None:
        check = Check(
            name="fence_waits", result=CheckResult.FAIL, evidence="40 %", weight=Weight.SUSPECT
        )
        launches = launches_of(34.1, 34.2, audit=[check])
        record = a_record(
            simulated=True,
            launches=launches,
            verdict=Verdict.SUSPECT,
            verdict_reason="fence_waits: 40 %",
        )
        named = dict(verdict(record).named)
        assert named["what was found"] == "40 %."

    @pytest.mark.parametrize(("device", "green"), [(REAL, True), (PRETENDED, False)])
    def test_its_head_is_green_for_a_real_one_alone(
        self, *, device: bool, green: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        out = io.StringIO()
        write_page(stored(measured(device, 34.1, 34.2, 34.0))[0], out, width=100)
        head = next(
            line
            for line in out.getvalue().splitlines()
            if "believed" in line or "The device was" in line
        )
        assert head.startswith("\x1b[1;32m" if green else "\x1b[1;31m")
