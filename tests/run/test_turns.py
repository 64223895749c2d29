"""Two launches that compute by turns: who goes when, and what happens when one does not play on.

Nothing is started: each side is a thread that waits and works as a rank would.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench.backends import host
from bench.backends.base import Probe
from bench.results.record import Keys, Launch, Outcome, Phase
from bench.run.ending import End
from bench.run.launching import Interrupted, Order
from bench.run.plan import Planned
from bench.run.turns import (
    ByTurns,
    OneAfterTheOther,
    Played,
    Result,
    cpus_of_pair,
    possible,
)
from bench.worker.job import Event
from tests.builders import a_case, launches_of

THIS = psutil.Process()
CRASHED = End(outcome=Outcome.CRASH, phase=Phase.BUILD, reason="it fell over")


def NEVER() -> bool:  # noqa: N802 - a constant answer
    return False


def a_plan(name: str, backend: str = "cpu", **knobs: object) -> Planned:
    return Planned(
        case=a_case(name, knobs=knobs),
        backend=backend,
        probe=Probe(backend=backend, available=True, device_model="Test CPU", device_count=1),
        position=0,
        keys=Keys(work="work", series="series", fingerprint="print"),
        side=name,
    )


def an_order(name: str, **knobs: object) -> Order:
    return Order(a_plan(name, **knobs), 0, 7, "session", 0, timeout_s=100.0, cache="none")


class Rank:
    """Plays a launch: warms up, takes so many turns, and ends; notes when it computes.

    Args:
        windows: How many, by side.
        computes_s: How long one takes, by side.
    """

    def __init__(self, windows: dict[str, int], computes_s: dict[str, float] | None = None) -> None:
        self.log: list[str] = []
        self._computes_s = computes_s or {}
        self.computing = 0
        self.most_computing = 0
        self._windows = windows
        self._lock = threading.Lock()

    def __call__(
        self, order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]
    ) -> Launch | End:
        name = order.planned.case.case
        self._wait(order, on_event, stop, "warm_up")
        self._compute(f"{name} warms up")
        for done in range(self._windows[name]):
            self._wait(order, on_event, stop, "window")
            self._compute(name)
            told = {"done": done + 1, "total": self._windows[name]}
            on_event(Event(rank=0, phase=Phase.MEASURE, **told))
        self._wait(order, on_event, stop, "end")
        self._compute(f"{name} ends")
        (launch,) = launches_of(100.0)
        return launch

    def _compute(self, what: str) -> None:
        with self._lock:
            self.computing += 1
            self.most_computing = max(self.most_computing, self.computing)
        time.sleep(self._computes_s.get(what, 0.002))
        with self._lock:
            self.computing -= 1
            self.log.append(what)

    def _wait(
        self,
        order: Order,
        on_event: Callable[[Event], None],
        stop: Callable[[], bool],
        before: str,
    ) -> None:
        on_event(Event.model_validate({"rank": 0, "phase": "measure", "waiting": before}))
        assert order.turn is not None
        os.set_blocking(order.turn, False)
        while True:
            if stop():
                raise Interrupted(Phase.MEASURE)
            try:
                ranks = order.planned.case.knobs.processes
                assert os.read(order.turn, 100) == b"." * ranks
            except BlockingIOError:
                time.sleep(0.001)
            else:
                return


class Noted:
    """A watcher that notes who started, and on which thread it was told."""

    def __init__(self) -> None:
        self.started_: list[str] = []
        self.threads: set[threading.Thread] = set()

    def started(self, order: Order) -> None:
        self.started_.append(order.planned.case.case)
        self.threads.add(threading.current_thread())

    def event(self, order: Order, event: Event) -> None:
        self.threads.add(threading.current_thread())


@pytest.fixture(autouse=True)
def _no_thread_and_no_descriptor_is_left() -> Iterator[None]:
    before, files = threading.active_count(), THIS.num_fds()
    yield
    assert threading.active_count() == before
    assert THIS.num_fds() == files


def results_of(played: tuple[Played, Played]) -> tuple[Result, Result]:
    return played[0].result, played[1].result


class TestByTurns:
    def test_windows_alternate_and_who_begins_alternates_too(self) -> None:
        rank, noted = Rank({"A": 4, "B": 4}), Noted()
        first, second = ByTurns(rank)(an_order("A"), an_order("B"), noted, NEVER)
        assert isinstance(first.result, Launch)
        assert isinstance(second.result, Launch)
        assert rank.log[:2] == ["A warms up", "B warms up"]
        assert "".join(rank.log[2:10]) == "BAABBAAB"
        assert rank.log[10:] == ["A ends", "B ends"]
        assert noted.started_ == ["A", "B"]

    def test_never_do_both_compute_at_once(self) -> None:
        rank = Rank({"A": 5, "B": 5})
        ByTurns(rank)(an_order("A"), an_order("B"), Noted(), NEVER)
        assert rank.most_computing == 1

    @pytest.mark.parametrize(("a", "b"), [(6, 12), (12, 6), (3, 10), (1, 4)])
    def test_neither_is_ever_a_window_further_than_its_share(self, a: int, b: int) -> None:
        rank = Rank({"A": a, "B": b})
        ByTurns(rank)(an_order("A"), an_order("B"), Noted(), NEVER)
        windows = "".join(rank.log[2:-2])
        assert (windows.count("A"), windows.count("B")) == (a, b)
        for end in range(len(windows)):
            done_a, done_b = windows[:end].count("A") / a, windows[:end].count("B") / b
            assert abs(done_a - done_b) <= 1 / min(a, b)
        assert rank.log[-2:] == ["A ends", "B ends"]

    def test_every_rank_of_a_side_is_given_the_turn(self) -> None:
        rank = Rank({"A": 2, "B": 2})
        orders = an_order("A", processes=2), an_order("B", processes=3)
        ByTurns(rank)(*orders, Noted(), NEVER)
        assert rank.log[-2:] == ["A ends", "B ends"]

    def test_the_watcher_hears_of_both_on_the_calling_thread(self) -> None:
        noted = Noted()
        ByTurns(Rank({"A": 2, "B": 2}))(an_order("A"), an_order("B"), noted, NEVER)
        assert noted.threads == {threading.current_thread()}

    def test_what_it_waits_for_the_other_is_not_its_own_time(self) -> None:
        rank = Rank({"A": 5, "B": 5}, {"B": 0.05})
        a, b = ByTurns(rank)(an_order("A"), an_order("B"), Noted(), NEVER)
        assert b.seconds >= 0.25
        assert a.seconds < 0.2

    def test_what_a_rank_uses_while_it_rests_is_a_share_of_the_cpus(self) -> None:
        rank = Rank({"A": 5, "B": 5}, {"B": 0.05})

        def spinning(order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]):  # type: ignore[no-untyped-def]
            result = rank(order, on_event, stop)
            if order.planned.case.case == "A":
                on_event(Event(rank=0, phase=Phase.MEASURE, rested_cpu_s=1000.0))
            return result

        a, b = ByTurns(spinning)(an_order("A"), an_order("B"), Noted(), NEVER)
        assert a.resting_share > 1
        assert b.resting_share == 0

    def test_of_the_cpus_it_is_kept_on_where_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three that spin fill what the other side computes on, and are few among 64."""
        monkeypatch.setattr(host, "cpus_by_core", lambda: list(range(64)))
        monkeypatch.setattr(host, "cpus_visible", lambda: 64)
        rank = Rank({"A": 5, "B": 5}, {"B": 0.05})

        def spinning(order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]):  # type: ignore[no-untyped-def]
            result = rank(order, on_event, stop)
            on_event(Event(rank=0, phase=Phase.MEASURE, rested_cpu_s=0.75))
            return result

        orders = an_order("A", threads=4), an_order("B", threads=4)
        a, _ = ByTurns(spinning)(*orders, Noted(), NEVER)
        assert 0.1 < a.resting_share <= 0.75 / (4 * 0.25)

    def test_each_has_its_own_timeout(self) -> None:
        seen: list[float] = []

        def runner(order: Order, *_: object) -> End:
            seen.append(order.timeout_s)
            return CRASHED

        ByTurns(runner)(an_order("A"), an_order("B"), Noted(), NEVER)
        assert seen == [100.0, 100.0]

    def test_a_side_that_finds_no_memory_is_told_that_it_can_have_it_alone(self) -> None:
        full = End(Outcome.OOM, Phase.BUILD, "out of memory", remedy="lower batch_size")
        _, b = ByTurns(lambda *_: full)(an_order("A"), an_order("B"), Noted(), NEVER)
        assert isinstance(b.result, End)
        assert b.result.remedy == (
            "use --one-at-a-time, since both sides are in memory at once; or lower batch_size"
        )

    @pytest.mark.parametrize("bad", ["A", "B"])
    def test_a_side_that_fails_ends_the_other(self, bad: str) -> None:
        rank = Rank({"A": 3, "B": 3})

        def runner(order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]):  # type: ignore[no-untyped-def]
            return CRASHED if order.planned.case.case == bad else rank(order, on_event, stop)

        noted = Noted()
        results = results_of(ByTurns(runner)(an_order("A"), an_order("B"), noted, NEVER))
        assert results == ((CRASHED, None) if bad == "A" else (None, CRASHED))
        assert noted.started_ == ["A", "B"]
        assert rank.log == []

    def test_a_side_that_dies_while_the_other_computes_ends_it_too(self) -> None:
        rank = Rank({"A": 50, "B": 50})

        def runner(order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]):  # type: ignore[no-untyped-def]
            if order.planned.case.case == "B":
                return rank(order, on_event, stop)
            rank._wait(order, on_event, stop, "warm_up")
            on_event(Event(rank=0, phase=Phase.MEASURE, waiting="window"))
            while not rank.log:
                time.sleep(0.001)
            return CRASHED

        results = results_of(ByTurns(runner)(an_order("A"), an_order("B"), Noted(), NEVER))
        assert results == (CRASHED, None)

    def test_an_interrupt_ends_both(self) -> None:
        rank = Rank({"A": 1000, "B": 1000})
        with pytest.raises(Interrupted) as caught:
            ByTurns(rank)(an_order("A"), an_order("B"), Noted(), lambda: len(rank.log) > 6)
        assert caught.value.phase is Phase.MEASURE

    def test_a_fault_of_ours_is_raised_where_the_caller_can_see_it(self) -> None:
        def runner(*_: object) -> End:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            ByTurns(runner)(an_order("A"), an_order("B"), Noted(), NEVER)


RANK = f"""\
#!{sys.executable} -S
import os, time
time.sleep(HANGS_S)
event = b'{{"rank": 0, "phase": "build", "waiting": "warm_up"}}\\n'
os.write(int(os.environ["BENCH_EVENTS_FD"]), event)
os.read(int(os.environ["BENCH_TURN_FD"]), 1)
"""
"""An interpreter whose ranks wait for their first turn, or hang before."""


def test_a_side_that_hangs_does_not_use_up_the_time_of_the_one_that_waits(
    tmp_path: Path,
) -> None:
    orders = []
    for name, hangs_s in (("A", "0"), ("B", "1000")):
        python = tmp_path / name
        python.write_text(RANK.replace("HANGS_S", hangs_s), encoding="utf-8")
        python.chmod(0o755)
        planned = replace(a_plan(name), interpreter=str(python))
        orders.append(replace(an_order(name), planned=planned, timeout_s=2.0))
    a, b = ByTurns()(orders[0], orders[1], Noted(), NEVER)
    assert a.result is None
    assert isinstance(b.result, End)
    assert b.result.outcome is Outcome.TIMEOUT
    assert a.seconds < 2.0 <= b.seconds


class TestOneAfterTheOther:
    def test_the_second_starts_when_the_first_has_ended(self) -> None:
        log: list[str] = []

        def runner(order: Order, *_: object) -> Launch:
            assert order.turn is None
            log.append(f"{order.planned.case.case} ends")
            return launches_of(1.0)[0]

        noted = Noted()
        results = OneAfterTheOther(runner)(an_order("B"), an_order("A"), noted, NEVER)
        assert all(isinstance(played.result, Launch) for played in results)
        assert (noted.started_, log) == (["B", "A"], ["B ends", "A ends"])

    def test_after_a_first_that_failed_the_second_is_not_started(self) -> None:
        noted = Noted()
        alone = OneAfterTheOther(lambda *_: CRASHED)
        results = results_of(alone(an_order("A"), an_order("B"), noted, NEVER))
        assert results == (CRASHED, None)
        assert noted.started_ == ["A"]

    def test_each_is_charged_its_own_time(self) -> None:
        def runner(order: Order, *_: object) -> Launch:
            time.sleep(0.1 if order.planned.case.case == "A" else 0.0)
            return launches_of(1.0)[0]

        a, b = OneAfterTheOther(runner)(an_order("A"), an_order("B"), Noted(), NEVER)
        assert a.seconds >= 0.1
        assert b.seconds < 0.1


class TestPossible:
    def test_on_processors_whose_loader_works_in_the_step(self) -> None:
        assert possible(a_plan("A"), a_plan("B"))

    def test_not_where_loader_workers_would_prepare_batches_meanwhile(self) -> None:
        assert not possible(a_plan("A"), a_plan("B", data={"workers": 1}))
        assert not possible(a_plan("A", data={"workers": 1}), a_plan("B"))

    def test_not_on_a_device_that_does_not_say_so(self) -> None:
        assert not possible(a_plan("A", backend="xla"), a_plan("B", backend="xla"))


class TestCpusOfPair:
    @pytest.fixture(autouse=True)
    def four_cpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host, "cpus_allowed", lambda: frozenset({1, 2, 5, 7}))
        monkeypatch.setattr(host, "cpus_by_core", lambda: [1, 2, 5, 7])

    def test_both_are_kept_on_one_cpu_and_the_next_block_of_pairs_on_the_next(self) -> None:
        order = an_order("A", threads=1)
        pairs = [replace(order, index=index) for index in range(10)]
        kept = [cpus_of_pair(pair, pair) for pair in pairs]
        assert kept == [(1,), (1,), (2,), (2,), (5,), (5,), (7,), (7,), (1,), (1,)]

    def test_as_many_as_all_ranks_of_the_larger_side_have_threads(self) -> None:
        small, large = an_order("A", threads=1), an_order("B", threads=3)
        assert cpus_of_pair(small, large) == (1, 2, 5)
        assert cpus_of_pair(replace(large, index=2), small) == (1, 2, 7)
        ranks = an_order("A", threads=1, processes=2, engine="ddp")
        assert cpus_of_pair(ranks, ranks) == (1, 2)

    def test_who_uses_all_cpus_is_not_kept_anywhere(self) -> None:
        for threads in (None, 4, 8):
            order = an_order("A", threads=threads)
            assert cpus_of_pair(order, order) is None

    def test_nor_is_a_compiler_or_a_device_beside_the_threads(self) -> None:
        alone = an_order("A", threads=1)
        compiled = an_order("B", threads=1, compile="inductor")
        assert cpus_of_pair(alone, compiled) is None
        lazy = replace(alone, planned=a_plan("B", "xla", threads=1))
        assert cpus_of_pair(lazy, alone) is None

    def test_the_launches_are_told(self) -> None:
        told: dict[str, tuple[int, ...] | None] = {}
        rank = Rank({"A": 1, "B": 1})

        def runner(
            order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]
        ) -> Launch | End:
            told[order.planned.case.case] = order.cpus
            return rank(order, on_event, stop)

        ByTurns(runner)(an_order("A", threads=1), an_order("B", threads=1), Noted(), NEVER)
        assert told == {"A": (1,), "B": (1,)}
