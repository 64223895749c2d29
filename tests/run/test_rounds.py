"""Rounds: the order of launches, what ends a case, and what is written when. Nothing is started."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.backends.base import Probe, Refusal
from bench.results.record import Health, Keys, Launch, Outcome, Phase, Precompiled, Record
from bench.results.scratch import Scratch
from bench.results.store import Store
from bench.run.ending import End
from bench.run.launching import Interrupted, Order
from bench.run.plan import Planned
from bench.run.rounds import Progressing, Rounds, launch_seed
from bench.worker.job import Event
from tests.builders import a_case, launches_of

HERE = Probe(backend="cpu", available=True, device_model="Test CPU", device_count=1)
CRASHED = End(outcome=Outcome.CRASH, phase=Phase.BUILD, reason="it fell over")

Answer = Callable[[Order], Launch | End]


def a_plan(name: str, position: int = 0, **fields: Any) -> Planned:
    measure = {"launches": fields.pop("launches", 3), "health": False, **fields.pop("measure", {})}
    return Planned(
        case=a_case(name, knobs=fields.pop("knobs", {}), measure=measure),
        backend="cpu",
        probe=fields.pop("probe", HERE),
        position=position,
        keys=Keys(work="work", series=f"series-{name}", fingerprint=f"print-{name}"),
        **fields,
    )


class Recorder:
    """A runner that starts nothing: it notes every order and gives the answer planned for it."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.orders: list[Order] = []
        self._answer = answer or (lambda order: launch_for(order, 100.0))

    def __call__(
        self, order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]
    ) -> Launch | End:
        self.orders.append(order)
        return self._answer(order)

    def names(self, round_number: int) -> list[str]:
        return [o.planned.case.case for o in self.orders if o.round == round_number]

    def of(self, name: str) -> list[Order]:
        return [order for order in self.orders if order.planned.case.case == name]


class Quiet:
    """A listener that only notes what was recorded, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.is_over = False

    def begin(self, cases: Sequence[Progressing]) -> None:
        self.log.append(f"begin {len(cases)}")

    def precompile(self, cases: Sequence[Progressing]) -> None:
        self.log.append(" ".join(["precompile", *(case.planned.case.case for case in cases)]))

    def precompiled(self, case: Progressing, result: Precompiled | End, seconds: float) -> None:
        self.log.append(f"precompiled {case.planned.case.case}")

    def launch(self, case: Progressing, round_number: int) -> None:
        self.log.append(f"launch {case.planned.case.case}")

    def event(self, case: Progressing, event: Event) -> None:
        pass

    def launched(self, case: Progressing, result: Launch | End, seconds: float) -> None:
        pass

    def health(self, case: Progressing) -> None:
        self.log.append(f"health {case.planned.case.case}")

    def examined(self, case: Progressing, health: Health, seconds: float) -> None:
        pass

    def recorded(self, case: Progressing) -> None:
        self.log.append(f"record {case.planned.case.case}")

    def over(self) -> None:
        self.is_over = True


def launch_for(order: Order, samples_per_s: float) -> Launch:
    (launch,) = launches_of(samples_per_s, session=order.session)
    return launch.model_copy(
        update={"index": order.index, "round": order.round, "seed": order.seed}
    )


class Bench:
    """A results folder, and rounds over it."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.listener = Quiet()

    def rounds(
        self,
        planned: Sequence[Planned],
        runner: Recorder,
        *,
        stop: Callable[[], bool] = lambda: False,
        session: str = "one",
    ) -> Rounds:
        return Rounds(
            planned,
            store=self.store,
            scratch=Scratch(self.store.root),
            session=session,
            listener=self.listener,
            stop=stop,
            runner=runner,
        )

    def records(self) -> dict[str, Record]:
        return {s.record.requested.case: s.record for s in self.store.records()}

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.store.root.rglob("scratch/*/*.jsonl"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "results")


class TestOrder:
    def test_every_round_launches_each_case_once_and_turns_the_order_round(
        self, bench: Bench
    ) -> None:
        runner = Recorder()
        bench.rounds([a_plan("a"), a_plan("b", 1), a_plan("c", 2)], runner).run()
        assert runner.names(0) == ["a", "b", "c"]
        assert runner.names(1) == ["c", "b", "a"]
        assert runner.names(2) == ["a", "b", "c"]
        assert len(runner.orders) == 9

    def test_cases_of_a_round_share_a_seed_and_rounds_do_not(self, bench: Bench) -> None:
        runner = Recorder()
        bench.rounds([a_plan("a"), a_plan("b", 1)], runner).run()
        seeds = [{o.seed for o in runner.orders if o.round == r} for r in range(3)]
        assert [len(s) for s in seeds] == [1, 1, 1]
        assert len(set.union(*seeds)) == 3

    def test_a_seed_follows_from_the_cases_own_and_fits_31_bits(self) -> None:
        seeds = [launch_seed(seed, index) for seed in range(50) for index in range(20)]
        assert len(set(seeds)) == 1000
        assert all(0 <= seed < 2**31 for seed in seeds)
        assert launch_seed(7, 3) == launch_seed(7, 3)

    def test_only_the_first_launch_of_a_case_meets_a_cold_compile_cache(self, bench: Bench) -> None:
        runner = Recorder()
        compiled = a_plan("compiled", knobs={"compile": "inductor"})
        bench.rounds([compiled, a_plan("eager", 1)], runner).run()
        assert [order.cache for order in runner.of("compiled")] == ["cold", "warm", "warm"]
        assert [order.cache for order in runner.of("eager")] == ["none"] * 3
        folders = {tuple(o.cache_environment.items()) for o in runner.of("compiled")}
        assert len(folders) == 1

    def test_cases_never_share_a_compile_cache(self, bench: Bench) -> None:
        runner = Recorder()
        plans = [a_plan(name, i, knobs={"compile": "inductor"}) for i, name in enumerate("ab")]
        bench.rounds(plans, runner).run()
        folders = {o.cache_environment["TORCHINDUCTOR_CACHE_DIR"] for o in runner.orders}
        assert len(folders) == 2
        assert not any(Path(folder).exists() for folder in folders)


class TestEnds:
    def test_a_case_that_fails_is_recorded_and_leaves_the_rounds(self, bench: Bench) -> None:
        runner = Recorder(
            lambda o: CRASHED if o.planned.case.case == "bad" else launch_for(o, 50.0)
        )
        rounds = bench.rounds([a_plan("bad"), a_plan("good", 1)], runner)
        stored = rounds.run()
        assert [s.record.requested.case for s in stored] == ["bad", "good"]
        assert len(runner.of("bad")) == 1
        assert len(runner.of("good")) == 3
        bad = bench.records()["bad"]
        assert (bad.outcome, bad.phase, bad.reason) == (Outcome.CRASH, Phase.BUILD, "it fell over")
        good = bench.records()["good"].statistics
        assert good is not None
        assert good.samples_per_s == pytest.approx(50.0)

    def test_a_case_that_fails_late_keeps_its_launches_and_has_no_number(
        self, bench: Bench
    ) -> None:
        runner = Recorder(lambda o: CRASHED if o.index == 2 else launch_for(o, 10.0 + o.index))
        bench.rounds([a_plan("late")], runner).run()
        record = bench.records()["late"]
        assert record.outcome is Outcome.CRASH
        assert [x.samples_per_s for x in record.launches] == [10.0, 11.0]
        assert record.statistics is None
        assert bench.kept() == []

    def test_a_record_is_written_as_soon_as_its_case_is_done(self, bench: Bench) -> None:
        plans = [a_plan("short", launches=1), a_plan("long", 1, launches=2)]
        bench.rounds(plans, Recorder()).run()
        assert bench.listener.log == [
            "begin 2",
            "launch short",
            "record short",
            "launch long",
            "launch long",
            "record long",
        ]

    def test_what_cannot_be_launched_is_recorded_before_anything_runs(self, bench: Bench) -> None:
        gone = Probe(backend="cpu", available=False, reason="no such device", remedy="buy one")
        refusal = Refusal(knob="compile", value="openxla", reason="not here")
        plans = [
            a_plan("run"),
            a_plan("refused", 1, refusals=[refusal]),
            a_plan("absent", 2, probe=gone),
        ]
        runner = Recorder()
        bench.rounds(plans, runner).run()
        assert {order.planned.case.case for order in runner.orders} == {"run"}
        assert bench.listener.log[1:3] == ["record refused", "record absent"]
        refused, absent = bench.records()["refused"], bench.records()["absent"]
        assert (refused.outcome, refused.reason) == (
            Outcome.UNSUPPORTED,
            "compile=openxla: not here",
        )
        assert (absent.outcome, absent.reason, absent.remedy) == (
            Outcome.UNAVAILABLE,
            "no such device",
            "buy one",
        )

    def test_a_case_that_names_what_does_not_exist_is_a_complaint_and_no_record(
        self, bench: Bench
    ) -> None:
        wrong = End(Outcome.CRASH, Phase.BUILD, "model=vit: no such model", bad_case=True)
        rounds = bench.rounds([a_plan("typo")], Recorder(lambda _: wrong))
        assert rounds.run() == []
        assert [case.complaint for case in rounds.cases] == [
            "quick / typo on cpu: model=vit: no such model"
        ]
        assert bench.records() == {}


class TestTime:
    def test_the_timeout_is_the_cases_and_not_the_launches(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = SimpleNamespace(now=0.0)
        monkeypatch.setattr("bench.run.rounds.time", SimpleNamespace(monotonic=lambda: clock.now))
        seconds = {"fast": 1.0, "slow": 40.0}

        def answer(order: Order) -> Launch:
            clock.now += seconds[order.planned.case.case]
            return launch_for(order, 1.0)

        runner = Recorder(answer)
        timeout = {"timeout_s": 100.0}
        plans = [a_plan("fast", measure=timeout), a_plan("slow", 1, measure=timeout)]
        bench.rounds(plans, runner).run()
        assert [order.timeout_s for order in runner.of("fast")] == [100.0, 99.0, 98.0]
        assert [order.timeout_s for order in runner.of("slow")] == [100.0, 60.0, 20.0]

    def test_a_case_that_has_used_up_its_time_gets_none(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticks = iter(range(0, 1000, 30))
        monkeypatch.setattr(
            "bench.run.rounds.time", SimpleNamespace(monotonic=lambda: float(next(ticks)))
        )
        runner = Recorder()
        bench.rounds([a_plan("slow", measure={"timeout_s": 50.0})], runner).run()
        assert [order.timeout_s for order in runner.orders] == [50.0, 20.0, 0.0]


class TestPrecision:
    def test_the_pilot_decides_once_how_many_launches_there_are(self, bench: Bench) -> None:
        pilot = [90.0, 100.0, 110.0]
        runner = Recorder(lambda o: launch_for(o, (pilot + [100.0] * 100)[o.index]))
        measure = {"precision_target": 10.0, "max_launches": 60}
        bench.rounds([a_plan("exact", measure=measure)], runner).run()
        logs = [math.log(value) for value in pilot]
        mean = sum(logs) / 3
        spread = math.sqrt(sum((x - mean) ** 2 for x in logs) / 2)
        # 4.302653 is the two-sided 95 % quantile of t with the pilot's two degrees of freedom.
        needed = math.ceil((4.302653 * spread / math.log(1.10)) ** 2)
        assert 3 < needed < 60
        assert len(runner.orders) == needed
        figures = bench.records()["exact"].statistics
        assert figures is not None
        assert (figures.method, figures.launches, figures.degrees_of_freedom) == (
            "stein",
            needed,
            2,
        )
        assert figures.precision_reached is True

    def test_a_quiet_pilot_is_enough(self, bench: Bench) -> None:
        runner = Recorder()
        bench.rounds([a_plan("calm", measure={"precision_target": 1.0})], runner).run()
        assert len(runner.orders) == 3

    def test_the_cap_holds_and_the_record_says_that_the_target_was_missed(
        self, bench: Bench
    ) -> None:
        runner = Recorder(lambda o: launch_for(o, 50.0 if o.index % 2 else 100.0))
        measure = {"precision_target": 1.0, "max_launches": 5}
        bench.rounds([a_plan("wild", measure=measure)], runner).run()
        assert len(runner.orders) == 5
        figures = bench.records()["wild"].statistics
        assert figures is not None
        assert figures.precision_reached is False


class TestInterrupt:
    def test_it_records_what_was_started_and_keeps_its_launches(self, bench: Bench) -> None:
        def answer(order: Order) -> Launch:
            if order.planned.case.case == "b" and order.index == 1:
                raise Interrupted(Phase.WARM_UP)
            return launch_for(order, 100.0)

        plans = [a_plan("a"), a_plan("b", 1), a_plan("done", 2, launches=1)]
        rounds = bench.rounds(plans, Recorder(answer))
        rounds.run()
        assert rounds.interrupted
        records = bench.records()
        assert records["done"].outcome is Outcome.OK
        assert {records[name].outcome for name in "ab"} == {Outcome.INTERRUPTED}
        assert (records["b"].phase, records["b"].reason) == (
            Phase.WARM_UP,
            "interrupted after 1 of 3 launches",
        )
        assert bench.kept() == ["print-a.jsonl", "print-b.jsonl"]

    def test_a_case_that_never_began_leaves_no_row(self, bench: Bench) -> None:
        answers = iter([False, True])
        rounds = bench.rounds(
            [a_plan("begun"), a_plan("later", 1)], Recorder(), stop=lambda: next(answers)
        )
        rounds.run()
        assert list(bench.records()) == ["begun"]

    def test_the_next_session_goes_on_from_the_kept_launches(self, bench: Bench) -> None:
        def once(order: Order) -> Launch:
            if order.index == 2:
                raise Interrupted(Phase.MEASURE)
            return launch_for(order, 100.0 + order.index)

        interrupted = bench.rounds([a_plan("a")], Recorder(once))
        interrupted.run()
        interrupted._scratch.close()
        runner = Recorder(lambda o: launch_for(o, 100.0 + o.index))
        resumed = bench.rounds([a_plan("a")], runner, session="two")
        resumed.recover()
        (stored,) = resumed.run()
        assert [order.index for order in runner.orders] == [2]
        assert runner.orders[0].seed == launch_seed(0, 2)
        assert [launch.session for launch in stored.record.launches] == ["one", "one", "two"]
        assert stored.record.outcome is Outcome.OK
        assert bench.kept() == []

    def test_recovered_launches_that_are_enough_need_no_other(self, bench: Bench) -> None:
        scratch = Scratch(bench.store.root)
        for index, launch in enumerate(launches_of(1.0, 2.0, 3.0, session="dead")):
            assert index == launch.index
            scratch.keep("dead", "print-a", launch)
        scratch.close()
        runner = Recorder()
        rounds = bench.rounds([a_plan("a")], runner, session="two")
        rounds.recover()
        rounds.run()
        assert runner.orders == []
        assert len(bench.records()["a"].launches) == 3
