"""The untimed run of one rank: how many steps it takes, and what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from bench.backends.base import World
from bench.backends.cpu import CpuDevice
from bench.measure.alignment import Alignment
from bench.measure.target import ALONE, Alone
from bench.worker import precompile
from bench.worker.events import Events
from bench.workload.step import Step
from tests.worker.a_job import a_case, a_job

pytestmark = pytest.mark.torch

ONE_A_GRAPH = Alignment()
TWO_A_GRAPH = Alignment(batches_per_execution=2, gradient_accumulation=3, first_cut=1)


class Compiling:
    """A step that compiles in its first so many advances."""

    def __init__(self, advances: int) -> None:
        self.advanced: list[int] = []
        self.fences = 0
        self._advances = advances

    def advance(self, micro_batches: int) -> None:
        self.advanced.append(micro_batches)

    def fence(self) -> None:
        self.fences += 1

    def compiles(self) -> int:
        return min(len(self.advanced), self._advances)


class Peer(Alone):
    """Another rank, which compiles for so many periods."""

    def __init__(self, periods: int) -> None:
        self._left = periods

    def any(self, flag: bool) -> bool:
        self._left -= 1
        return flag or self._left >= 0


def periods(step: Compiling, alignment: Alignment = ONE_A_GRAPH, peers: Any = ALONE) -> int:
    return precompile.advance(cast("Step", step), alignment, peers)


class TestSteps:
    def test_two_periods_without_a_compilation_are_enough(self) -> None:
        step = Compiling(1)
        assert periods(step) == 2
        assert step.fences == len(step.advanced) == 3

    def test_it_goes_on_while_anything_is_compiled(self) -> None:
        # The lead-in and three periods compile, two more are quiet.
        assert periods(Compiling(4)) == 5

    def test_what_never_comes_to_rest_is_left_to_the_launch(self) -> None:
        assert periods(Compiling(100)) == 12

    def test_all_ranks_go_on_while_one_of_them_compiles(self) -> None:
        assert periods(Compiling(0), peers=Peer(4)) == 6

    def test_it_cuts_where_a_launch_does(self) -> None:
        step = Compiling(0)
        periods(step, TWO_A_GRAPH)
        assert step.advanced == [TWO_A_GRAPH.lead_in, TWO_A_GRAPH.period, TWO_A_GRAPH.period]
        assert step.advanced == [3, 6, 6]


def test_a_case_is_run_and_its_compilations_are_counted(tmp_path: Path) -> None:
    job = a_job(tmp_path).model_copy(update={"purpose": "precompile"})
    found = precompile.run(job, World(), Events(0))
    assert found is not None
    assert found.compiles == 0
    assert found.seconds > 0


def test_inference_is_run_too(tmp_path: Path) -> None:
    job = a_job(tmp_path, a_case({"task": "infer", "optimizer": None, "learning_rate": None}))
    assert precompile.run(job, World(), Events(0)) is not None


@pytest.mark.parametrize("notes", [False, True])
def test_no_value_is_looked_at_on_a_device_that_only_notes(
    tmp_path: Path, notes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(CpuDevice, "prove", lambda *_: asked.append("prove") or {})
    job = a_job(tmp_path).model_copy(update={"purpose": "precompile", "notes": notes})
    precompile.run(job, World(), Events(0))
    assert asked == ([] if notes else ["prove"])
