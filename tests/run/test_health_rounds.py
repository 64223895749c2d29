"""Health passes among the rounds: when they run, and what becomes of the case's number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.results.health import HealthRun
from bench.results.record import Outcome, Phase, Verdict
from bench.run.health import HealthPass
from bench.run.launching import Interrupted, Order
from bench.run.plan import Planned
from bench.run.rounds import launch_seed
from tests.run.examiner import KILLED, Examiner, planned
from tests.run.test_rounds import Bench, Recorder, launch_for


class Examined(Bench):
    """Rounds whose cases have a health pass, by a runner that starts nothing."""

    def run(
        self,
        cases: Sequence[Planned],
        runner: Examiner,
        launches: Recorder | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Any:
        rounds = self.rounds(cases, launches or Recorder(), stop=stop)
        rounds._health = HealthPass(self.store.root, runner)
        rounds.run()
        return rounds


@pytest.fixture
def examined(tmp_path: Path) -> Examined:
    return Examined(tmp_path / "results")


class TestRounds:
    def test_the_record_holds_the_health(self, examined: Examined) -> None:
        examined.run([planned({"precision": "bf16"})], Examiner())
        (record,) = examined.records().values()
        assert record.health is not None
        assert (record.health.learns, record.health.loss_last) == (True, 1.3)

    def test_passes_come_after_the_round_and_before_the_record(self, examined: Examined) -> None:
        cases = [
            planned(name="short", measure={"launches": 1}),
            planned(name="long", measure={"launches": 2}),
        ]
        examined.run(cases, Examiner())
        assert examined.listener.log == [
            "begin 2",
            "launch short",
            "launch long",
            "health short",
            "record short",
            "launch long",
            "health long",
            "record long",
        ]

    def test_seeds_are_the_cases_and_not_the_launches(self, examined: Examined) -> None:
        runner, launches = Examiner(), Recorder()
        cases = [planned({"seed": seed}, {"launches": 2}, name=f"{seed}") for seed in (0, 5)]
        examined.run(cases, runner, launches)
        first, other = (order.seed for order in runner.orders)
        assert first != other
        assert [order.seed for order in launches.of("0")] == [launch_seed(0, i) for i in (0, 1)]
        assert first == launch_seed(0, 0)

    def test_a_pass_that_crashes_keeps_the_number(self, examined: Examined) -> None:
        examined.run([planned()], Examiner(lambda _order: KILLED))
        (record,) = examined.records().values()
        assert (record.outcome, record.verdict) == (Outcome.OK, Verdict.MEASURED)
        assert record.statistics is not None
        assert record.health is not None
        assert record.health.learns is None
        assert "ended as oom" in (record.health.reason or "")

    @pytest.mark.parametrize(
        ("knobs", "measure"), [({}, {"health": False}), ({"task": "infer"}, {})]
    )
    def test_switched_off_or_without_training_there_is_none(
        self, examined: Examined, knobs: dict[str, Any], measure: dict[str, Any]
    ) -> None:
        runner = Examiner()
        examined.run([planned(knobs, measure)], runner)
        (record,) = examined.records().values()
        assert record.outcome is Outcome.OK
        assert record.health is None
        assert runner.orders == []

    def test_a_case_without_a_number_has_none(self, examined: Examined) -> None:
        runner = Examiner()
        examined.run([planned()], runner, Recorder(lambda _order: KILLED))
        (record,) = examined.records().values()
        assert (record.outcome, record.health) == (Outcome.OOM, None)
        assert runner.orders == []

    def test_it_gets_what_is_left_of_the_cases_time(
        self, examined: Examined, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = SimpleNamespace(now=0.0)
        monkeypatch.setattr("bench.run.rounds.time", SimpleNamespace(monotonic=lambda: clock.now))

        def answer(order: Order) -> Any:
            clock.now += 30.0
            return launch_for(order, 1.0)

        runner = Examiner()
        asked = planned(measure={"timeout_s": 100.0, "launches": 2})
        examined.run([asked], runner, Recorder(answer))
        assert [order.timeout_s for order in runner.orders] == [40.0]

    def test_an_interrupt_in_the_pass_keeps_the_number_and_ends_the_run(
        self, examined: Examined
    ) -> None:
        asked_to_stop: list[int] = []

        def answer(order: Order) -> HealthRun:
            asked_to_stop.append(1)
            raise Interrupted(Phase.HEALTH)

        cases = [
            planned(name="a", measure={"launches": 1}),
            planned({"precision": "bf16"}, {"launches": 1}, name="b"),
            planned({"batch_size": 3}, {"launches": 2}, name="c"),
        ]
        runner = Examiner(answer)
        rounds = examined.run(cases, runner, stop=lambda: bool(asked_to_stop))
        assert rounds.interrupted
        assert len(runner.orders) == 1
        records = examined.records()
        for name in "ab":
            assert records[name].outcome is Outcome.OK
            assert records[name].health is not None
            assert records[name].health.learns is None
            assert "interrupted" in (records[name].health.reason or "")
        assert records["c"].outcome is Outcome.INTERRUPTED
        assert records["c"].health is None

    def test_an_interrupt_in_a_later_launch_of_the_round_keeps_the_number(
        self, examined: Examined
    ) -> None:
        stopped: list[int] = []

        def answer(order: Order) -> Any:
            if order.planned.case.case == "b":
                stopped.append(1)
                raise Interrupted(Phase.WARM_UP)
            return launch_for(order, 100.0)

        cases = [planned(name=name, measure={"launches": 1}) for name in "ab"]
        cases[1] = planned({"batch_size": 3}, {"launches": 1}, name="b")
        runner = Examiner()
        examined.run(cases, runner, Recorder(answer), stop=lambda: bool(stopped))
        records = examined.records()
        assert records["a"].outcome is Outcome.OK
        assert records["b"].outcome is Outcome.INTERRUPTED
        assert runner.orders == []
