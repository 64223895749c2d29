"""Comparing two cases: the order of launches, what each side leaves, and what ends it early."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench._version import __version__
from bench.backends.base import Refusal
from bench.cli import comparison_page
from bench.cli.comparing import exit_code
from bench.results.compared import Comparison
from bench.results.health import HealthRun
from bench.results.matching import paired
from bench.results.record import MEASUREMENT_VERSION, Launch, Outcome, Phase, Record
from bench.results.store import Store
from bench.run import pythons
from bench.run.ab import Contest, side_of
from bench.run.ending import End
from bench.run.health import HealthPass, HealthRunner
from bench.run.launching import Interrupted, Order
from bench.run.plan import Planned, plan
from bench.run.pythons import Python
from bench.run.turns import Play, Played, Result, Watcher
from bench.scenarios.errors import ScenarioError
from tests.builders import a_case, launches_of
from tests.run.examiner import FROZEN, LEARNS, Examiner, planned
from tests.run.test_rounds import CRASHED, HERE, Quiet, a_plan


def not_stopped() -> bool:
    return False


def sides(pairs: int = 4, **fields: Any) -> tuple[Planned, Planned]:
    a = replace(a_plan("base", launches=pairs, **fields), side="A")
    b = replace(a_plan("other", 1, launches=pairs, **fields), side="B")
    return a, b


class Notes:
    """Runs nothing: gives each launch a throughput by its side and round, or another answer."""

    def __init__(
        self, answer: Callable[[Order], Result] | None = None, resting_share: float = 0.0
    ) -> None:
        self.orders: list[Order] = []
        self._resting_share = resting_share
        self._answer = answer or by_side({"A": 100.0, "B": 95.0})

    def __call__(
        self, first: Order, second: Order, watcher: Watcher, stop: Callable[[], bool]
    ) -> tuple[Played, Played]:
        played = [Played(None, 0.0), Played(None, 0.0)]
        for place, order in enumerate((first, second)):
            watcher.started(order)
            self.orders.append(order)
            result = self._answer(order)
            seconds = {"A": 15.0, "B": 5.0}[str(order.planned.side)]
            played[place] = Played(result, seconds, self._resting_share)
            if isinstance(result, End):
                break
        return played[0], played[1]

    @property
    def started(self) -> str:
        return "".join(str(order.planned.side) for order in self.orders)


def launch_for(order: Order, samples_per_s: float) -> Launch:
    (launch,) = launches_of(samples_per_s, session=order.session)
    return launch.model_copy(
        update={"index": order.index, "round": order.round, "seed": order.seed}
    )


def by_side(values: dict[str, float]) -> Callable[[Order], Launch]:
    """Return throughputs on a machine that loses a tenth of its speed from launch to launch."""
    return lambda order: launch_for(order, values[str(order.planned.side)] * 0.9**order.round)


class Lab:
    """A results folder, and contests over it."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.listener = Quiet()

    def contest(
        self,
        play: Play,
        planned: tuple[Planned, Planned] | None = None,
        stop: Callable[[], bool] = not_stopped,
        health: HealthRunner | None = None,
    ) -> Contest:
        a, b = planned or sides()
        contest = Contest(
            a,
            b,
            store=self.store,
            session="one",
            listener=self.listener,
            stop=stop,
            play=play,
            health=None if health is None else HealthPass(self.store.root, health),
        )
        contest.run()
        return contest

    def records(self) -> dict[str, Record]:
        return {item.record.requested.case: item.record for item in self.store.records()}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "results")


class TestOrder:
    def test_launches_make_blocks_of_abba(self, lab: Lab) -> None:
        play = Notes()
        lab.contest(play)
        assert play.started == "ABBAABBA"

    def test_a_pair_shares_its_seed_and_its_round_and_pairs_do_not(self, lab: Lab) -> None:
        play = Notes()
        lab.contest(play)
        pairs = [play.orders[place : place + 2] for place in range(0, 8, 2)]
        assert [{order.round for order in pair} for pair in pairs] == [{0}, {1}, {2}, {3}]
        seeds = [{order.seed for order in pair} for pair in pairs]
        assert [len(found) for found in seeds] == [1, 1, 1, 1]
        assert len(set.union(*seeds)) == 4

    def test_both_sides_leave_ordinary_records_that_tell_the_ratio(self, lab: Lab) -> None:
        contest = lab.contest(Notes())
        records = lab.records()
        assert {name: record.outcome for name, record in records.items()} == {
            "base": Outcome.OK,
            "other": Outcome.OK,
        }
        assert [x.round for x in records["other"].launches] == [0, 1, 2, 3]
        assert {record.session for record in records.values()} == {"one"}
        assert [records[name].position for name in ("base", "other")] == [0, 1]
        assert (contest.failed, contest.interrupted, contest.obstacle) == (False, False, None)
        found = paired(contest.a.stored, contest.b.stored, 2.0, contest.obstacle)
        assert found.verdict == "SLOWER"
        assert found.ratio == pytest.approx(0.95)

    def test_the_sides_never_share_a_compile_cache(self, lab: Lab) -> None:
        play = Notes()
        lab.contest(play, sides(2, knobs={"compile": "inductor"}))
        folders: dict[str | None, set[str]] = {}
        for order in play.orders:
            folder = order.cache_environment["TORCHINDUCTOR_CACHE_DIR"]
            folders.setdefault(order.planned.side, set()).add(folder)
        assert [len(found) for found in folders.values()] == [1, 1]
        assert len(set.union(*folders.values())) == 2
        assert [order.cache for order in play.orders] == ["cold", "cold", "warm", "warm"]


class TestRest:
    @pytest.mark.parametrize(("share", "verdict"), [(0.04, "SLOWER"), (0.3, "INVALID")])
    def test_a_side_that_computes_in_the_others_turns_spoils_the_pairs(
        self, lab: Lab, share: float, verdict: str
    ) -> None:
        contest = lab.contest(Notes(resting_share=share))
        found = paired(contest.a.stored, contest.b.stored, 2.0, contest.obstacle)
        assert found.verdict == verdict
        if verdict == "INVALID":
            assert "used 30% of the CPUs while it rested and the other side" in found.reason


class TestEnds:
    def test_a_side_that_fails_is_recorded_and_ends_the_other(self, lab: Lab) -> None:
        def answer(order: Order) -> Result:
            failing = order.planned.side == "B" and order.round == 2
            return CRASHED if failing else launch_for(order, 100.0)

        play = Notes(answer)
        contest = lab.contest(play)
        assert play.started == "ABBAAB"
        records = lab.records()
        assert (records["other"].outcome, len(records["other"].launches)) == (Outcome.CRASH, 2)
        assert (records["base"].outcome, len(records["base"].launches)) == (
            Outcome.INTERRUPTED,
            3,
        )
        assert records["base"].reason == (
            "given up, as the other side failed, after 3 of 4 launches"
        )
        assert contest.failed
        found = paired(contest.a.stored, contest.b.stored, 2.0, contest.obstacle)
        assert (found.verdict, found.reason) == (
            "INVALID",
            "B has no number (crash): it fell over",
        )
        assert len(found.pairs) == 2

    def test_a_side_that_fails_at_once_leaves_no_record_of_the_other(self, lab: Lab) -> None:
        contest = lab.contest(Notes(lambda _: CRASHED))
        assert list(lab.records()) == ["base"]
        assert contest.b.stored is None
        found = paired(contest.a.stored, contest.b.stored, 2.0, contest.obstacle)
        assert (found.verdict, found.reason) == (
            "INVALID",
            "A has no number (crash): it fell over",
        )

    def test_a_refused_side_is_a_row_and_nothing_is_launched(self, lab: Lab) -> None:
        a, b = sides()
        refusal = Refusal(knob="compile", value="openxla", reason="not here")
        play = Notes()
        contest = lab.contest(play, (a, replace(b, refusals=[refusal])))
        assert play.orders == []
        assert lab.records()["other"].outcome is Outcome.UNSUPPORTED
        assert contest.failed
        assert contest.obstacle == "B has no number (unsupported): compile=openxla: not here"

    def test_a_side_that_names_what_does_not_exist_is_a_complaint_and_no_record(
        self, lab: Lab
    ) -> None:
        wrong = End(Outcome.CRASH, Phase.BUILD, "model=vit: no such model", bad_case=True)
        contest = lab.contest(Notes(lambda _: wrong))
        assert contest.complaints == ["A: quick / base on cpu: model=vit: no such model"]
        assert lab.records() == {}

    def test_an_interrupt_during_a_pair_keeps_the_pairs_before_it(self, lab: Lab) -> None:
        def answer(order: Order) -> Result:
            if order.round == 2:
                raise Interrupted(Phase.WARM_UP)
            return launch_for(order, 100.0)

        contest = lab.contest(Notes(answer))
        assert contest.interrupted
        assert not contest.failed
        assert contest.obstacle == "interrupted after 2 of 4 pairs"
        for record in lab.records().values():
            assert (record.outcome, record.phase) == (Outcome.INTERRUPTED, Phase.WARM_UP)
            assert record.reason == "interrupted after 2 of 4 launches"
            assert len(record.launches) == 2
        found = paired(contest.a.stored, contest.b.stored, 2.0, contest.obstacle)
        assert (found.verdict, found.ratio) == ("INVALID", pytest.approx(1.0))

    def test_an_interrupt_between_pairs_is_heeded(self, lab: Lab) -> None:
        play = Notes()
        contest = lab.contest(play, stop=lambda: len(play.orders) == 4)
        assert play.started == "ABBA"
        assert contest.obstacle == "interrupted after 2 of 4 pairs"

    def test_an_interrupt_before_anything_leaves_nothing(self, lab: Lab) -> None:
        contest = lab.contest(Notes(), stop=lambda: True)
        assert contest.interrupted
        assert lab.listener.is_over
        assert lab.records() == {}


class TestTime:
    def test_each_side_spends_its_own_time_of_its_timeout(self, lab: Lab) -> None:
        play = Notes()
        lab.contest(play, sides(3, measure={"timeout_s": 40.0}))
        left = {
            side: [order.timeout_s for order in play.orders if order.planned.side == side]
            for side in "AB"
        }
        assert left == {"A": [40.0, 25.0, 10.0], "B": [40.0, 35.0, 30.0]}


def learning(order: Order) -> HealthRun:
    return FROZEN if order.planned.case.knobs.precision == "bf16" else LEARNS


def trained_sides(**knobs: Any) -> tuple[Planned, Planned]:
    """Return two sides of a training case whose B is in bfloat16."""
    a, b = (planned({**knobs, "precision": p}, name=p) for p in ("fp32", "bf16"))
    return side_of(a, "A", 4, budget_s=None, by_turns=False), side_of(
        b, "B", 4, budget_s=None, by_turns=False
    )


class TestHealth:
    def compared(self, lab: Lab, examiner: Examiner, b: float = 150.0) -> Comparison:
        play = Notes(by_side({"A": 100.0, "B": b}))
        contest = lab.contest(play, trained_sides(), health=examiner)
        return paired(contest.a.stored, contest.b.stored, 2.0, contest.obstacle)

    def test_each_side_is_looked_at_once_after_the_pairs(self, lab: Lab) -> None:
        examiner = Examiner()
        row = self.compared(lab, examiner)
        # A is its own reference, and B's reference is A's.
        assert examiner.precisions == ["fp32", "bf16"]
        assert [entry for entry in lab.listener.log if entry.startswith("health")] == [
            "health fp32",
            "health bf16",
        ]
        assert row.a is not None
        assert row.b is not None
        assert (row.a.learns, row.b.learns) == (True, True)
        assert (row.verdict, exit_code([row])) == ("FASTER", 0)

    @pytest.mark.parametrize("speed", [150.0, 100.0])
    def test_a_b_that_does_not_learn_is_never_simply_faster_or_the_same(
        self, lab: Lab, speed: float
    ) -> None:
        row = self.compared(lab, Examiner(learning), speed)
        assert row.reason.startswith("B does not learn (its loss on one batch went from 2.3 to 2.3")
        assert exit_code([row]) == 1
        out = io.StringIO()
        comparison_page.write([row], [], "rich", out, width=200)
        assert f"{row.verdict}; B does not learn: " in out.getvalue()
        assert ", learns" in out.getvalue()
        assert ", does not learn" in out.getvalue()
        out = io.StringIO()
        comparison_page.write([row], [], "json", out)
        (told,) = orjson.loads(out.getvalue())["rows"]
        assert (told["a"]["learns"], told["b"]["learns"]) == (True, False)

    def test_a_b_that_is_as_bad_as_a_keeps_its_verdict(self, lab: Lab) -> None:
        row = self.compared(lab, Examiner(lambda _: FROZEN.model_copy(update={"updates": 0})))
        assert row.a is not None
        assert row.a.learns is False
        assert (row.verdict, exit_code([row])) == ("FASTER", 0)

    def test_a_case_that_does_not_train_is_not_looked_at(self, lab: Lab) -> None:
        examiner = Examiner()
        lab.contest(Notes(), trained_sides(task="infer"), health=examiner)
        assert examiner.orders == []

    def test_nor_is_one_whose_other_side_failed(self, lab: Lab) -> None:
        examiner = Examiner()
        lab.contest(Notes(lambda _: CRASHED), trained_sides(), health=examiner)
        assert examiner.orders == []

    def test_an_interrupt_in_it_keeps_both_numbers(self, lab: Lab) -> None:
        def interrupted(order: Order) -> HealthRun:
            raise Interrupted(Phase.HEALTH)

        contest = lab.contest(Notes(), trained_sides(), health=Examiner(interrupted))
        assert contest.interrupted
        for record in lab.records().values():
            assert record.outcome is Outcome.OK
            assert record.health is not None
            assert "interrupted before the health pass" in str(record.health.reason)


class TestSide:
    def side(self, measure: dict[str, Any], **options: Any) -> Planned:
        (planned,) = plan([a_case(measure=measure)], [HERE], {})
        options = {"budget_s": None, "by_turns": True, **options}
        return side_of(planned, "B", 10, **options)

    def test_a_launch_gets_as_much_time_as_one_of_a_run(self) -> None:
        measure = self.side({"launches": 3, "budget_s": 12.0}).case.measure
        assert (measure.launches, measure.budget_s) == (10, pytest.approx(40.0))

    def test_or_its_share_of_the_budget_asked_for(self) -> None:
        assert self.side({}, budget_s=25.0).case.measure.budget_s == pytest.approx(25.0)

    def test_turns_are_short_windows(self) -> None:
        measure = {"launches": 3, "budget_s": 12.0, "windows": 8}
        assert self.side(measure).case.measure.windows == math.ceil(4.0 / 0.06)
        assert self.side(measure, by_turns=False).case.measure.windows == 8
        assert self.side({"launches": 1, "budget_s": 900.0}).case.measure.windows == 1000

    def test_its_protocol_is_one_that_a_record_may_hold(self) -> None:
        side = self.side({"launches": 3, "max_launches": 5, "precision_target": 2.0})
        measure = side.case.measure
        assert (measure.precision_target, measure.max_launches) == (None, 10)
        assert type(measure).model_validate(measure.model_dump()) == measure

    @pytest.mark.parametrize("health", [True, False])
    def test_whether_training_is_looked_at_is_left_to_the_case(self, health: bool) -> None:
        assert self.side({"health": health}).case.measure.health is health

    def test_it_is_planned_anew_under_its_own_fingerprint(self) -> None:
        (planned,) = plan([a_case()], [HERE], {})
        side = self.side({})
        assert (side.side, side.position) == ("B", 1)
        assert side.keys.series == planned.keys.series
        assert side.keys.fingerprint != planned.keys.fingerprint

    def test_it_keeps_the_environment_it_was_planned_for(self) -> None:
        there = Python("/there/bin/python", {"python": "3.12.0", "torch": "9.9"})
        (planned,) = plan([a_case()], [HERE], {}, there)
        side = side_of(planned, "A", 3, budget_s=None, by_turns=False)
        assert (side.interpreter, side.versions) == (there.path, there.versions)


class TestPythons:
    def test_its_own_interpreter_needs_no_child(self) -> None:
        assert pythons.examine(sys.executable, "--python-a") == pythons.own()

    def test_another_interpreter_tells_what_it_finds(self, tmp_path: Path) -> None:
        assert pythons.examine(wrapper(tmp_path), "--python-b").versions == pythons.own().versions

    def test_other_code_of_the_same_version_is_told_as_another_version(
        self, tmp_path: Path
    ) -> None:
        found = pythons.examine(self.answers(tmp_path, code="0123456789"), "--python-b")
        assert found.versions == {"accelbench": f"{__version__}+code.01234567", "torch": "9.9"}

    @pytest.mark.parametrize(
        ("answer", "message"),
        [
            (
                {"measurement": 0},
                r"measures by method 0, and this one does by \d+; install the same",
            ),
            ({"accelbench": None}, r"did not answer as accelbench does; name the python"),
        ],
    )
    def test_an_answer_that_will_not_do_is_refused(
        self, tmp_path: Path, answer: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ScenarioError, match=message):
            pythons.examine(self.answers(tmp_path, **answer), "--python-b")

    def test_an_answer_that_is_no_json_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ScenarioError, match="did not answer as accelbench does"):
            pythons.examine(speaking(tmp_path, "hello"), "--python-b")

    def test_a_python_that_is_too_old_is_told_so(self, tmp_path: Path) -> None:
        path = tmp_path / "python"
        path.write_text("#!/bin/sh\necho 'Unknown option: -P' >&2\nexit 2\n", encoding="utf-8")
        path.chmod(0o755)
        with pytest.raises(ScenarioError, match=r"python: is a Python that is older than 3\.11"):
            pythons.examine(str(path), "--python-b")

    def answers(self, folder: Path, **changes: Any) -> str:
        answer = {
            "accelbench": __version__,
            "measurement": MEASUREMENT_VERSION,
            "code": "0123456789",
            "versions": {"accelbench": __version__, "torch": "9.9"},
        }
        return speaking(folder, orjson.dumps(answer | changes).decode())


def speaking(folder: Path, answer: str) -> str:
    """Return an interpreter that answers every question with the same text."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\nfor last; do :; done\necho '{answer}' > \"$last\"\n", "utf-8")
    path.chmod(0o755)
    return str(path)


def wrapper(folder: Path, setting: str = "UNUSED=1") -> str:
    """Return an interpreter with another name, which sets a variable and becomes this one."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec env {setting} "{sys.executable}" "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return str(path)
