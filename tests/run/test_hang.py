"""What a row says of a launch whose ranks have fallen silent, by where they were found to stand."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

from bench.backends.base import Probe
from bench.results.record import Keys, Outcome, Phase
from bench.run import launching
from bench.run import pulse as pulses
from bench.run.ending import End
from bench.run.launching import Order
from bench.run.plan import Planned
from bench.worker.job import Event, Job, log_file
from tests.builders import a_case
from tests.run.test_pulse import Clock


class Silent:
    """Ranks that step for a moment, rank 0 the longest, and then say nothing more."""

    lost = None
    killed_for_memory = False

    def __init__(self, waits: dict[int, bool], clock: Clock) -> None:
        self._clock = clock
        self.codes: list[int | None] = [None] * len(waits)
        self.ended_at: list[float | None] = list(self.codes)
        self.waits = waits
        self.folder = Path()
        self._events = [Event(rank=r, phase=Phase.WARM_UP, done=d) for d in range(3) for r in waits]
        self._events.append(Event(rank=0, phase=Phase.WARM_UP, done=3))

    def start(
        self,
        order: Order,
        job: Job,
        command: list[str],
        environment: Mapping[str, str],
        inherited: Collection[int] = (),
    ) -> Silent:
        self.folder = Path(job.folder)
        return self

    def listen(self, timeout_s: float) -> Iterator[Event]:
        self._clock.now += 0.01
        if self._events:
            yield self._events.pop(0)

    def ended(self) -> bool:
        return False

    def failed(self) -> bool:
        return False

    def ask_for_stacks(self) -> dict[int, bool]:
        for rank in self.waits:
            log_file(self.folder, rank).write_text(f"of rank {rank}", encoding="utf-8")
        return self.waits

    def kill(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The one by which ranks are silent: nothing is waited for."""
    fake = Clock()
    monkeypatch.setattr(pulses, "time", fake)
    return fake


def end_of(waits: dict[int, bool], clock: Clock) -> End:
    knobs = {"processes": len(waits)}
    planned = Planned(
        case=a_case(knobs=knobs, measure={"hang_s": 0.3}),
        backend="cpu",
        probe=Probe(backend="cpu", available=True, device_model="one", device_count=1),
        position=0,
        keys=Keys(work="w", series="s", fingerprint="f"),
    )
    order = Order(planned, index=0, seed=1, session="x", round=0, timeout_s=60, cache="none")
    found = launching.run(order, lambda _: None, lambda: False, Silent(waits, clock).start)
    assert isinstance(found, End)
    assert found.outcome is Outcome.HANG
    return found


def test_one_that_does_not_come_to_the_others_is_named_with_its_words(clock: Clock) -> None:
    end = end_of({0: True, 1: True, 2: False}, clock)
    assert end.reason.startswith("rank 2 had been stepping and was silent for")
    assert end.reason.endswith(" s, and the others wait for it")
    assert end.log_tail == "of rank 2"


@pytest.mark.parametrize("waits", [{0: True, 1: True}, {0: False, 1: False}])
def test_where_the_stacks_tell_nobody_apart_the_row_says_that_it_is_not_known(
    waits: dict[int, bool], clock: Clock
) -> None:
    end = end_of(waits, clock)
    assert end.reason.startswith("which of the ranks hangs is not known: rank 1 had been stepping")
    assert end.reason.endswith(" s, the longest")
    assert end.log_tail == "of rank 1"


def test_a_single_rank_is_the_one(clock: Clock) -> None:
    assert end_of({0: False}, clock).reason.endswith(" s")
