"""Filling compile caches before the first launch: who is alive at once, and what becomes of a case.

Nothing is started here: the runs are functions that note when they were alive.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.backends import registry
from bench.backends.base import Backend, Device, Precompilation, Probe, Refusal, World
from bench.results.record import Launch, Outcome, Phase, Precompiled
from bench.results.scratch import Scratch
from bench.run import precompiling
from bench.run.ending import End
from bench.run.launching import Interrupted, Order
from bench.run.precompiling import Filled, Precompiler
from bench.run.rounds import Progressing, Rounds, order_of
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Knobs
from tests.builders import launches_of
from tests.run.test_rounds import Bench, Recorder, a_plan, bench, launch_for

__all__ = ["bench"]

DONE = Precompiled(compiles=2, seconds=0.5)
BROKEN = End(Outcome.COMPILE_FAILED, Phase.FIRST_STEP, "a product of four axes", log_tail="NCC_E1")
TOO_LARGE = End(Outcome.OOM, Phase.BUILD, "killed by the kernel")
SHARED = Precompilation()
MEET_S = 20.0


def an_order(name: str, processes: int = 1) -> Order:
    planned = a_plan(name, knobs={"compile": "inductor", "processes": processes})
    return order_of(Progressing(planned), 0, "session", Path("caches"))


class Workshop:
    """Untimed runs and compilers that start nothing.

    Args:
        together: How many must be alive at once before any of them goes on.
        answers: What the run of a case comes to, where it is not done.
    """

    def __init__(self, together: int = 1, **answers: End) -> None:
        self.orders: list[Order] = []
        self.noted_orders: list[Order] = []
        self.notes: list[bool] = []
        self.jobs: list[int] = []
        self.most = 0
        self.most_ranks = 0
        self.most_jobs = 0
        self.beside: dict[str, set[str]] = {}
        """The names of all that were alive with a case."""
        self.device_twice = False
        self._answers = answers
        self._alive: list[tuple[Order, int]] = []
        self._lock = threading.Lock()
        self._meeting = threading.Barrier(together)

    def untimed(self, order: Order, stop: Callable[[], bool], notes: bool) -> Precompiled | End:
        with self._lock:
            self.orders.append(order)
            self.notes.append(notes)
        return self._work(order, 0)

    def noted(self, order: Order, stop: Callable[[], bool], jobs: int) -> Precompiled | End:
        with self._lock:
            self.noted_orders.append(order)
            self.jobs.append(jobs)
        return self._work(order, jobs)

    def _work(self, order: Order, jobs: int) -> Precompiled | End:
        mine = (order, jobs)
        with self._lock:
            self._alive.append(mine)
            self._look()
        try:
            self._meeting.wait(MEET_S)
            time.sleep(0.02)
        finally:
            with self._lock:
                self._alive.remove(mine)
        return self._answers.get(name_of(order), DONE)

    def _look(self) -> None:
        names = {name_of(order) for order, _ in self._alive}
        for name in names:
            self.beside.setdefault(name, set()).update(names - {name})
        runs = [order for order, jobs in self._alive if not jobs]
        self.most = max(self.most, len(self._alive))
        self.most_ranks = max(self.most_ranks, sum(o.planned.case.knobs.processes for o in runs))
        self.most_jobs = max(self.most_jobs, sum(jobs for _, jobs in self._alive))
        held = Counter(
            device
            for order in runs
            for device in order.cache_environment.get("SHOWN", "").split(",")
            if device
        )
        self.device_twice = self.device_twice or any(count > 1 for count in held.values())


def name_of(order: Order) -> str:
    return order.planned.case.case


def filled(
    workshop: Workshop,
    orders: Sequence[tuple[Order, Precompilation]],
    cpus: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Filled]:
    work = Precompiler(cpus, workshop.untimed, workshop.noted)
    return {name_of(orders[f.number][0]): f for f in work.run(orders, stop)}


def plain(count: int) -> list[tuple[Order, Precompilation]]:
    return [(an_order(name), SHARED) for name in "abcdefgh"[:count]]


def nothing_is_alive() -> bool:
    return not any(thread.name.startswith("precompile") for thread in threading.enumerate())


class TestRoom:
    def test_so_many_are_alive_at_once_as_there_are_cpus_and_no_more(self) -> None:
        workshop = Workshop(together=3)
        found = filled(workshop, plain(6), cpus=3)
        assert workshop.most == 3
        assert sorted(found) == list("abcdef")
        assert all(
            isinstance(f.result, Precompiled) and f.result.compiles == 2 for f in found.values()
        )

    def test_every_rank_counts(self) -> None:
        orders = [(an_order(name, processes=2), SHARED) for name in "abcd"]
        workshop = Workshop(together=2)
        filled(workshop, orders, cpus=4)
        assert (workshop.most, workshop.most_ranks) == (2, 4)

    def test_what_has_more_ranks_than_there_are_cpus_runs_by_itself(self) -> None:
        orders = [(an_order("wide", processes=4), SHARED), *plain(2)]
        workshop = Workshop()
        found = filled(workshop, orders, cpus=2)
        assert set(found) == {"wide", "a", "b"}
        assert workshop.beside["wide"] == set()

    def test_nothing_runs_beside_a_compiler_that_times_what_it_chooses_from(self) -> None:
        orders = [
            *plain(2),
            (an_order("tuned"), Precompilation(alone=True)),
            (an_order("z"), SHARED),
        ]
        workshop = Workshop()
        found = filled(workshop, orders, cpus=4)
        assert set(found) == {"a", "b", "tuned", "z"}
        assert workshop.beside["tuned"] == set()

    def test_each_run_is_shown_devices_that_no_other_has(self) -> None:
        devices = Precompilation(devices=("3", "5", "6"), shown_by="SHOWN")
        orders = [(an_order(name), devices) for name in "abcdef"]
        workshop = Workshop(together=3)
        filled(workshop, orders, cpus=64)
        assert workshop.most == 3
        assert not workshop.device_twice
        shown = {order.cache_environment["SHOWN"] for order in workshop.orders}
        assert shown == {"3", "5", "6"}

    def test_a_run_of_two_ranks_is_shown_two_devices(self) -> None:
        devices = Precompilation(devices=("0", "1", "2"), shown_by="SHOWN")
        orders = [(an_order(name, processes=2), devices) for name in "abc"]
        workshop = Workshop()
        filled(workshop, orders, cpus=64)
        assert workshop.most == 1
        assert all(len(o.cache_environment["SHOWN"].split(",")) == 2 for o in workshop.orders)

    def test_it_is_told_of_its_cache_and_of_what_else_the_adapter_says(self) -> None:
        plan = Precompilation(variables={"NOTE_ONLY": "1"})
        workshop = Workshop()
        filled(workshop, [(an_order("a"), plan)], cpus=1)
        told = workshop.orders[0].cache_environment
        assert told["NOTE_ONLY"] == "1"
        assert told["TORCHINDUCTOR_CACHE_DIR"] == str(workshop.orders[0].cache_folder)


class TestNoted:
    PLAN = Precompilation(variables={"NOTE_ONLY": "1"}, notes=True, compilers=4)

    def test_what_was_noted_is_compiled_afterwards_without_the_variables_of_noting(self) -> None:
        workshop = Workshop()
        found = filled(workshop, [(an_order("a"), self.PLAN)], cpus=8)
        assert workshop.notes == [True]
        (order,) = workshop.noted_orders
        assert "NOTE_ONLY" not in order.cache_environment
        assert order.cache_folder == workshop.orders[0].cache_folder
        assert isinstance(found["a"].result, Precompiled)

    def test_a_single_case_has_all_compilers(self) -> None:
        workshop = Workshop()
        filled(workshop, [(an_order("a"), self.PLAN)], cpus=8)
        assert workshop.jobs == [4]

    def test_several_cases_share_them(self) -> None:
        workshop = Workshop()
        filled(workshop, [(an_order(name), self.PLAN) for name in "abcdefgh"], cpus=8)
        assert len(workshop.jobs) == 8
        assert workshop.most_jobs <= 4

    def test_a_device_is_free_again_when_its_graphs_are_noted(self) -> None:
        class Together(Workshop):
            """The compiler of one case waits for that of the other."""

            def untimed(self, order: Order, stop: Any, notes: bool) -> Precompiled | End:
                return DONE

        plan = replace(self.PLAN, devices=("0",), shown_by="SHOWN", compilers=2)
        workshop = Together(together=2)
        found = filled(workshop, [(an_order("a"), plan), (an_order("b"), plan)], cpus=2)
        assert set(found) == {"a", "b"}
        assert workshop.most == 2

    def test_a_graph_that_cannot_be_compiled_is_how_the_case_ends(self) -> None:
        class Failing(Workshop):
            def noted(self, order: Order, stop: Callable[[], bool], jobs: int) -> End:
                return BROKEN

        found = filled(Failing(), [(an_order("a"), self.PLAN)], cpus=2)
        assert found["a"].result == BROKEN

    def test_a_run_that_failed_has_nothing_compiled(self) -> None:
        workshop = Workshop(a=TOO_LARGE)
        found = filled(workshop, [(an_order("a"), self.PLAN)], cpus=2)
        assert found["a"].result == TOO_LARGE
        assert workshop.noted_orders == []


class TestEnd:
    def test_asked_to_stop_it_ends_all_that_is_alive_and_starts_nothing_more(self) -> None:
        started: list[str] = []
        stopping = threading.Event()

        def untimed(order: Order, stop: Callable[[], bool], notes: bool) -> Precompiled | End:
            started.append(name_of(order))
            stopping.set()
            while not stop():
                time.sleep(0.01)
            raise Interrupted(Phase.FIRST_STEP)

        work = Precompiler(2, untimed)
        with pytest.raises(Interrupted):
            list(work.run(plain(5), stopping.is_set))
        assert len(started) <= 2
        assert nothing_is_alive()

    def test_closed_early_it_ends_what_is_alive(self) -> None:
        ended: list[str] = []

        def untimed(order: Order, stop: Callable[[], bool], notes: bool) -> Precompiled | End:
            if name_of(order) == "a":
                return DONE
            while not stop():
                time.sleep(0.01)
            ended.append(name_of(order))
            raise Interrupted(Phase.FIRST_STEP)

        running = Precompiler(2, untimed).run(plain(2), lambda: False)
        assert next(running).number == 0
        running.close()
        assert ended == ["b"]
        assert nothing_is_alive()

    def test_a_fault_of_ours_is_raised_where_it_can_be_seen(self) -> None:
        def untimed(*_: object) -> Precompiled:
            raise RuntimeError("a fault")

        with pytest.raises(RuntimeError, match="a fault"):
            list(Precompiler(2, untimed).run(plain(3), lambda: False))
        assert nothing_is_alive()


class Precompiling(Bench):
    """Rounds whose caches are filled first, by runs that start nothing."""

    def run(
        self,
        plans: Sequence[Any],
        workshop: Workshop,
        launches: Recorder | None = None,
        **options: Any,
    ) -> Rounds:
        rounds = self.rounds(plans, launches or Recorder(), **options)
        rounds._precompiler = Precompiler(2, workshop.untimed, workshop.noted)
        rounds.run()
        return rounds


@pytest.fixture
def compiled(tmp_path: Path) -> Precompiling:
    return Precompiling(tmp_path / "results")


def inductor(name: str, position: int = 0, **fields: Any) -> Any:
    return a_plan(name, position, knobs={"compile": "inductor"}, **fields)


class TestRounds:
    def test_all_caches_are_filled_before_the_first_launch(self, compiled: Precompiling) -> None:
        compiled.run([inductor("a", launches=1), inductor("b", 1, launches=1)], Workshop())
        log = compiled.listener.log
        assert log[:2] == ["begin 2", "precompile a b"]
        assert sorted(log[2:4]) == ["precompiled a", "precompiled b"]
        assert log[4:] == ["launch a", "record a", "launch b", "record b"]

    def test_every_launch_is_warm_and_the_record_says_what_was_compiled(
        self, compiled: Precompiling
    ) -> None:
        launches, workshop = Recorder(), Workshop()
        compiled.run([inductor("a")], workshop, launches)
        assert [order.cache for order in launches.orders] == ["warm", "warm", "warm"]
        assert {order.cache_folder for order in launches.orders} == {
            workshop.orders[0].cache_folder
        }
        found = compiled.records()["a"].precompiled
        assert found is not None
        assert found.compiles == 2
        assert found.seconds > 0

    def test_a_run_without_it_is_as_it_was(self, bench: Bench) -> None:
        launches = Recorder()
        bench.rounds([inductor("a")], launches).run()
        assert [order.cache for order in launches.orders] == ["cold", "warm", "warm"]
        assert bench.records()["a"].precompiled is None

    def test_a_case_that_compiles_nothing_is_launched_as_always(
        self, compiled: Precompiling
    ) -> None:
        launches, workshop = Recorder(), Workshop()
        compiled.run([a_plan("eager"), inductor("a", 1)], workshop, launches)
        assert [name_of(order) for order in workshop.orders] == ["a"]
        assert {order.cache for order in launches.of("eager")} == {"none"}
        assert compiled.records()["eager"].precompiled is None

    def test_a_case_that_cannot_be_compiled_is_a_row_with_the_compilers_words_and_no_launch(
        self, compiled: Precompiling
    ) -> None:
        launches = Recorder()
        plans = [inductor("bad"), inductor("good", 1)]
        compiled.run(plans, Workshop(bad=BROKEN), launches)
        bad = compiled.records()["bad"]
        assert (bad.outcome, bad.phase) == (Outcome.COMPILE_FAILED, Phase.FIRST_STEP)
        assert (bad.reason, bad.log_tail) == ("a product of four axes", "NCC_E1")
        assert bad.launches == []
        assert {name_of(order) for order in launches.orders} == {"good"}
        assert compiled.records()["good"].outcome is Outcome.OK

    def test_what_the_model_cannot_do_is_known_then_too(self, compiled: Precompiling) -> None:
        lacking = End(Outcome.UNSUPPORTED, Phase.BUILD, "no such method")
        launches = Recorder()
        compiled.run([inductor("a")], Workshop(a=lacking), launches)
        assert compiled.records()["a"].outcome is Outcome.UNSUPPORTED
        assert launches.orders == []

    @pytest.mark.parametrize("outcome", [Outcome.OOM, Outcome.CRASH, Outcome.TIMEOUT])
    def test_what_may_come_from_the_crowd_is_left_to_the_launch_with_an_empty_cache(
        self, compiled: Precompiling, outcome: Outcome
    ) -> None:
        left: list[bool] = []

        class Half(Workshop):
            def untimed(self, order: Order, stop: Any, notes: bool) -> Precompiled | End:
                assert order.cache_folder is not None
                order.cache_folder.mkdir(parents=True)
                (order.cache_folder / "half.so").touch()
                return super().untimed(order, stop, notes)

        def answer(order: Order) -> Launch:
            assert order.cache_folder is not None
            left.append(order.cache_folder.exists())
            return launch_for(order, 100.0)

        launches = Recorder(answer)
        compiled.run([inductor("a")], Half(a=End(outcome, Phase.BUILD, "why")), launches)
        assert [order.cache for order in launches.orders] == ["cold", "warm", "warm"]
        assert left[0] is False
        record = compiled.records()["a"]
        assert (record.outcome, record.precompiled) == (Outcome.OK, None)

    def test_a_case_that_names_what_does_not_exist_is_a_complaint_and_no_record(
        self, compiled: Precompiling
    ) -> None:
        wrong = End(Outcome.CRASH, Phase.BUILD, "model=vit: no such model", bad_case=True)
        launches = Recorder()
        rounds = compiled.run([inductor("typo")], Workshop(typo=wrong), launches)
        assert [case.complaint for case in rounds.cases] == [
            "quick / typo on cpu: model=vit: no such model"
        ]
        assert (launches.orders, compiled.records()) == ([], {})

    def test_a_case_whose_launches_are_all_recovered_is_not_compiled(
        self, compiled: Precompiling
    ) -> None:
        scratch = Scratch(compiled.store.root)
        for launch in launches_of(1.0, 2.0, 3.0, session="dead"):
            scratch.keep("dead", "print-a", launch)
        scratch.close()
        workshop = Workshop()
        rounds = compiled.rounds([inductor("a"), inductor("b", 1)], Recorder(), session="two")
        rounds._precompiler = Precompiler(2, workshop.untimed)
        rounds.recover()
        rounds.run()
        assert [name_of(order) for order in workshop.orders] == ["b"]
        assert compiled.records()["a"].precompiled is None


class TestInterrupted:
    def test_what_was_recovered_is_recorded_and_kept_and_what_never_began_leaves_no_row(
        self, compiled: Precompiling
    ) -> None:
        scratch = Scratch(compiled.store.root)
        for launch in launches_of(1.0, session="dead"):
            scratch.keep("dead", "print-a", launch)
        scratch.close()
        asked = threading.Event()

        class Stopped(Workshop):
            def untimed(self, order: Order, stop: Callable[[], bool], notes: bool) -> Any:
                asked.set()
                raise Interrupted(Phase.FIRST_STEP)

        launches = Recorder()
        rounds = compiled.rounds(
            [inductor("a"), inductor("b", 1)], launches, session="two", stop=asked.is_set
        )
        rounds._precompiler = Precompiler(1, Stopped().untimed)
        rounds.recover()
        rounds.run()
        assert rounds.interrupted
        assert compiled.listener.is_over
        assert launches.orders == []
        (record,) = compiled.records().values()
        assert (record.requested.case, record.outcome) == ("a", Outcome.INTERRUPTED)
        assert len(record.launches) == 1
        assert compiled.kept() == ["print-a.jsonl"]

    def test_where_nothing_is_recorded_the_listener_is_told_all_the_same(
        self, compiled: Precompiling
    ) -> None:
        """Else the line about the caches would go on turning, and the cursor stay hidden."""
        asked = threading.Event()

        class Stopped(Workshop):
            def untimed(self, order: Order, stop: Callable[[], bool], notes: bool) -> Any:
                assert not compiled.listener.is_over
                asked.set()
                raise Interrupted(Phase.FIRST_STEP)

        rounds = compiled.rounds([inductor("a"), inductor("b", 1)], Recorder(), stop=asked.is_set)
        rounds._precompiler = Precompiler(1, Stopped().untimed)
        rounds.run()
        assert rounds.interrupted
        assert compiled.records() == {}
        assert compiled.listener.log == ["begin 2", "precompile a b"]
        assert compiled.listener.is_over

    def test_a_case_that_was_recorded_before_stays_recorded(self, compiled: Precompiling) -> None:
        asked = threading.Event()

        class BadThenStopped(Workshop):
            def untimed(self, order: Order, stop: Callable[[], bool], notes: bool) -> Any:
                if name_of(order) == "bad":
                    return BROKEN
                asked.set()
                raise Interrupted(Phase.FIRST_STEP)

        rounds = compiled.rounds([inductor("bad"), inductor("b", 1)], Recorder(), stop=asked.is_set)
        rounds._precompiler = Precompiler(1, BadThenStopped().untimed)
        rounds.run()
        assert {name: r.outcome for name, r in compiled.records().items()} == {
            "bad": Outcome.COMPILE_FAILED
        }


class Keeping(Backend):
    """Says that it can be precompiled; whether it keeps what it compiles is the test's to say."""

    name = "keeping"

    def __init__(self, kept: bool) -> None:
        self._kept = kept

    def probe(self) -> Probe:
        return Probe(backend=self.name, available=True)

    def open(self, knobs: Knobs, world: World) -> Device:
        raise NotImplementedError

    def compile_cache(self, knobs: Knobs, probe: Probe, folder: str) -> dict[str, str] | None:
        return {"CACHE": folder} if self._kept else None


class TestCheck:
    XLA = Probe(backend="xla", available=True, flavour="CPU", facts={"pjrt": "CPU"})

    def test_cases_that_compile_nothing_are_told(self) -> None:
        eager, compiling = a_plan("eager"), inductor("a", 1)
        assert precompiling.check([eager, compiling]) == [eager]

    def test_a_plan_in_which_nothing_is_compiled_is_refused(self) -> None:
        with pytest.raises(ScenarioError, match="nothing is compiled in these cases"):
            precompiling.check([a_plan("eager"), a_plan("other", 1)])

    def test_what_no_launch_could_load_is_refused_with_its_reason(self) -> None:
        plan = replace(a_plan("a"), backend="xla", probe=self.XLA)
        with pytest.raises(ScenarioError, match="cannot load again") as raised:
            precompiling.check([inductor("b"), plan])
        assert "quick / a on xla cannot be precompiled" in str(raised.value)

    def test_what_cannot_be_launched_stands_in_nobodys_way(self) -> None:
        refusal = Refusal(knob="compile", value="openxla", reason="not here")
        plan = replace(a_plan("a", refusals=[refusal]), backend="xla", probe=self.XLA)
        assert precompiling.check([plan]) == []
        assert precompiling.check([plan, inductor("b")]) == []

    @pytest.mark.parametrize("kept", [True, False])
    def test_an_adapter_that_says_nothing_is_refused_unless_it_keeps_what_it_compiles(
        self, kept: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(registry, "get", lambda _name: Keeping(kept))
        found = precompiling.how(inductor("a"))
        if kept:
            assert found == Precompilation(alone=True)
        else:
            assert isinstance(found, Refusal)
            assert "from one process to the next" in found.reason

    def test_an_adapter_that_promises_more_than_it_keeps_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Promising(Keeping):
            def precompilation(self, knobs: Knobs, probe: Probe) -> Precompilation:
                return Precompilation()

        monkeypatch.setattr(registry, "get", lambda _name: Promising(kept=False))
        found = precompiling.how(inductor("a"))
        assert isinstance(found, Refusal)
        assert "names no place" in found.reason
