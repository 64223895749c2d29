"""What passes between the parent and its ranks arrives as it was sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.backends.base import World
from bench.measure.alignment import Alignment
from bench.results.record import Check, CheckResult, Phase
from bench.worker.events import Events
from bench.worker.job import (
    EVENTS_VARIABLE,
    Event,
    Failure,
    FailureKind,
    Job,
    world_from_environment,
)
from bench.worker.reporting import Reporter
from tests.worker.a_job import a_case, a_job


class Pipe:
    """The parent's end of the events pipe."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)

    def heard(self) -> list[Event]:
        lines = os.read(self.read_end, 1 << 16).splitlines()
        return [Event.model_validate_json(line) for line in lines]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    made = Pipe()
    monkeypatch.setenv(EVENTS_VARIABLE, str(made.write_end))
    yield made
    os.close(made.read_end)
    os.close(made.write_end)


def test_a_job_comes_back_from_json_as_it_was(tmp_path: Path) -> None:
    case = a_case({"precision": "amp-bf16", "data": {"source": "jpeg", "workers": 2}})
    job = a_job(tmp_path, case, diagnose=True, seed=7)
    assert Job.model_validate_json(job.model_dump_json(by_alias=True)) == job


@given(
    rank=st.integers(0, 63),
    kind=st.sampled_from(FailureKind),
    phase=st.sampled_from(Phase),
    message=st.text(),
)
def test_a_failure_comes_back_from_json_as_it_was(
    rank: int, kind: FailureKind, phase: Phase, message: str
) -> None:
    failure = Failure(rank=rank, kind=kind, phase=phase, message=message, time=1.5)
    assert Failure.model_validate_json(failure.model_dump_json()) == failure


def test_a_job_with_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    text = a_job(tmp_path).model_dump_json(by_alias=True).replace('"seed"', '"sead"', 1)
    with pytest.raises(ValidationError, match="sead"):
        Job.model_validate_json(text)


def test_a_rank_learns_its_place_from_the_launcher_and_is_alone_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert world_from_environment() == World(rank=0, size=1, local_rank=0)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert world_from_environment() == World(rank=5, size=8, local_rank=1)


def test_events_carry_rank_phase_and_progress(pipe: Pipe) -> None:
    events = Events(rank=3)
    events.enter(Phase.WARM_UP)
    events.tell(done=5, samples_per_s=12.5)
    assert pipe.heard() == [
        Event(rank=3, phase=Phase.WARM_UP),
        Event(rank=3, phase=Phase.WARM_UP, done=5, samples_per_s=12.5),
    ]
    assert events.phase is Phase.WARM_UP


def test_without_a_parent_events_only_remember_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(EVENTS_VARIABLE, raising=False)
    events = Events(rank=0)
    events.enter(Phase.BUILD)
    assert events.phase is Phase.BUILD


def test_the_running_estimate_is_all_samples_over_all_time(pipe: Pipe) -> None:
    # 16 samples a micro-batch over all ranks, 4 micro-batches a period, 2 periods a window.
    alignment = Alignment(gradient_accumulation=4)
    reporter = Reporter(Events(0), 16, alignment)
    reporter.planned(2, period_s=0.5)
    reporter.warm_up(steps=6, seconds=1.0, period_s=0.5)
    reporter.window(done=1, planned=3, seconds=1.0)
    reporter.window(done=2, planned=3, seconds=3.0)
    reporter.voided(1)
    planned, *heard = pipe.heard()
    assert planned.expected_s == 1.0
    told = [(e.done, e.total, e.samples_per_s) for e in heard]
    assert told == [(6, None, 128.0), (1, 3, 128.0), (2, 3, 64.0), (None, None, None)]


def checks(*results: CheckResult) -> list[Check]:
    return [
        Check(name=f"check_{i}", result=result, evidence=f"{result} here")
        for i, result in enumerate(results)
    ]


def test_a_check_that_fails_on_any_rank_fails_for_all_and_names_the_rank() -> None:
    pytest.importorskip("torch")
    from bench.worker.session import worst_of

    passed, failed, other = CheckResult.PASS, CheckResult.FAIL, CheckResult.NOT_APPLICABLE
    folded = worst_of([checks(passed, passed, other), checks(passed, failed, other)])
    assert [c.result for c in folded] == [passed, failed, other]
    assert folded[1].evidence == "rank 1: fail here"
    assert folded[0].evidence == "pass here"
    both = worst_of([checks(failed), checks(failed)])
    assert both[0].evidence == "rank 0: fail here"
    # A launch of one process has no ranks to tell apart.
    assert worst_of([checks(failed)])[0].evidence == "fail here"
