"""Two launches that compute by turns: who goes when, and what happens when one does not play on.

Nothing is started: each side is a thread that waits and works as a rank would.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from bench.backends.base import Probe
from bench.results.record import Keys, Launch, Outcome, Phase
from bench.run.ending import End
from bench.run.launching import Interrupted, Order
from bench.run.plan import Planned
from bench.run.turns import ByTurns, OneAfterTheOther, possible
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


def an_order(name: str) -> Order:
    return Order(a_plan(name), 0, 7, "session", 0, timeout_s=100.0, cache="none")


class Rank:
    """Plays a launch: warms up, takes so many turns, and ends; notes when it computes."""

    def __init__(self, windows: dict[str, int]) -> None:
        self.log: list[str] = []
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
        for _ in range(self._windows[name]):
            self._wait(order, on_event, stop, "window")
            self._compute(name)
        self._wait(order, on_event, stop, "end")
        self._compute(f"{name} ends")
        (launch,) = launches_of(100.0)
        return launch

    def _compute(self, what: str) -> None:
        with self._lock:
            self.computing += 1
            self.most_computing = max(self.most_computing, self.computing)
        time.sleep(0.002)
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
                assert os.read(order.turn, 1) == b"."
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


class TestByTurns:
    def test_windows_alternate_and_who_begins_alternates_too(self) -> None:
        rank, noted = Rank({"A": 4, "B": 4}), Noted()
        first, second = ByTurns(rank)(an_order("A"), an_order("B"), noted, NEVER)
        assert isinstance(first, Launch)
        assert isinstance(second, Launch)
        assert rank.log[:2] == ["A warms up", "B warms up"]
        assert "".join(rank.log[2:10]) == "BAABBAAB"
        assert rank.log[10:] == ["A ends", "B ends"]
        assert noted.started_ == ["A", "B"]

    def test_never_do_both_compute_at_once(self) -> None:
        rank = Rank({"A": 5, "B": 5})
        ByTurns(rank)(an_order("A"), an_order("B"), Noted(), NEVER)
        assert rank.most_computing == 1

    def test_a_side_with_more_windows_goes_on_alone_and_the_other_waits_to_end(self) -> None:
        rank = Rank({"A": 1, "B": 4})
        ByTurns(rank)(an_order("A"), an_order("B"), Noted(), NEVER)
        assert rank.log == [
            *("A warms up", "B warms up", "B", "A", "B", "B", "B"),
            *("A ends", "B ends"),
        ]

    def test_the_watcher_hears_of_both_on_the_calling_thread(self) -> None:
        noted = Noted()
        ByTurns(Rank({"A": 2, "B": 2}))(an_order("A"), an_order("B"), noted, NEVER)
        assert noted.threads == {threading.current_thread()}

    def test_each_may_take_as_long_as_both_together(self) -> None:
        seen: list[float] = []

        def runner(order: Order, *_: object) -> End:
            seen.append(order.timeout_s)
            return CRASHED

        ByTurns(runner)(an_order("A"), an_order("B"), Noted(), NEVER)
        assert seen == [200.0, 200.0]

    @pytest.mark.parametrize("bad", ["A", "B"])
    def test_a_side_that_fails_ends_the_other(self, bad: str) -> None:
        rank = Rank({"A": 3, "B": 3})

        def runner(order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]):  # type: ignore[no-untyped-def]
            return CRASHED if order.planned.case.case == bad else rank(order, on_event, stop)

        noted = Noted()
        results = ByTurns(runner)(an_order("A"), an_order("B"), noted, NEVER)
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

        results = ByTurns(runner)(an_order("A"), an_order("B"), Noted(), NEVER)
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


class TestOneAfterTheOther:
    def test_the_second_starts_when_the_first_has_ended(self) -> None:
        log: list[str] = []

        def runner(order: Order, *_: object) -> Launch:
            assert order.turn is None
            log.append(f"{order.planned.case.case} ends")
            return launches_of(1.0)[0]

        noted = Noted()
        results = OneAfterTheOther(runner)(an_order("B"), an_order("A"), noted, NEVER)
        assert all(isinstance(result, Launch) for result in results)
        assert (noted.started_, log) == (["B", "A"], ["B ends", "A ends"])

    def test_after_a_first_that_failed_the_second_is_not_started(self) -> None:
        noted = Noted()
        results = OneAfterTheOther(lambda *_: CRASHED)(an_order("A"), an_order("B"), noted, NEVER)
        assert results == (CRASHED, None)
        assert noted.started_ == ["A"]


class TestPossible:
    def test_on_processors_whose_loader_works_in_the_step(self) -> None:
        assert possible(a_plan("A"), a_plan("B"))

    def test_not_where_loader_workers_would_prepare_batches_meanwhile(self) -> None:
        assert not possible(a_plan("A"), a_plan("B", data={"workers": 1}))
        assert not possible(a_plan("A", data={"workers": 1}), a_plan("B"))

    def test_not_on_a_device_that_does_not_say_so(self) -> None:
        assert not possible(a_plan("A", backend="xla"), a_plan("B", backend="xla"))
