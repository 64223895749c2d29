"""Under torchrun: what is honoured of a request, what is refused, and which compile cache is used.

A rank that stands alone shows the plan: on a backend that is not here, rank 0 records the case as
it would have run, and nothing is launched.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bench.backends.base import World
from bench.backends.temporary import TemporaryError
from bench.results.record import Record
from bench.run import inplace
from tests.run.driver import HEAD, Bench
from tests.run.test_command import TORCHRUN

RANK_0_OF_2 = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
}
FOUR = "processes: 4\n"


def planned(bench: Bench, *arguments: str, cases: str = "", head: str = HEAD) -> Record:
    """Return the record of a case that rank 0 of 2 plans and cannot launch."""
    scenario = bench.scenario("placed", cases, head)
    finished = bench("run", scenario, "--backend", "neuron", *arguments, environment=RANK_0_OF_2)
    assert finished.code == 4, finished.stderr
    (record,) = bench.records()
    return record


def refused(bench: Bench, *arguments: str, cases: str = "", head: str = HEAD) -> str:
    scenario = bench.scenario("placed", cases, head)
    finished = bench("run", scenario, "--backend", "neuron", *arguments, environment=RANK_0_OF_2)
    assert finished.code == 2, finished.stderr
    assert not bench.results.exists()
    (message,) = finished.complaints
    return message.removeprefix("bench: ")


def test_a_mistake_that_only_one_rank_meets_is_said_by_that_rank(bench: Bench) -> None:
    finished = bench("run", "nowhere", environment={**RANK_0_OF_2, "RANK": "1"})
    assert finished.code == 2
    (message,) = finished.complaints
    assert message.startswith("bench: rank 1: scenario: 'nowhere' ")


def test_a_rank_without_torchrun_is_nobodys(bench: Bench) -> None:
    finished = bench("run", "nowhere", environment={"RANK": "1"})
    (message,) = finished.complaints
    assert message.startswith("bench: scenario: 'nowhere' ")


class TestSettings:
    @pytest.mark.parametrize(
        ("arguments", "place"),
        [
            (["--resume"], "--resume"),
            (["--precompile"], "--precompile"),
            (["--launches", "2"], "measure.launches (--launches)"),
            (["--set", "measure.launches=5"], "measure.launches (--launches)"),
            (["--set", "measure={launches: 5}"], "measure.launches (--launches)"),
            (["--precision-target", "2"], "measure.precision_target (--precision-target)"),
            (["--set", "measure.precision_target=2"], "measure.precision_target"),
            (["--set", "measure.max_launches=40"], "measure.max_launches"),
            (["--timeout", "60"], "measure.timeout_s (--timeout)"),
            (["--set", "measure.timeout_s=60"], "measure.timeout_s (--timeout)"),
            (["--set", "measure.hang_s=60"], "measure.hang_s"),
            (["--set", "measure.health_steps=5"], "measure.health_steps"),
        ],
    )
    def test_what_only_our_own_launcher_can_do_is_refused_however_it_is_asked_for(
        self, bench: Bench, arguments: list[str], place: str
    ) -> None:
        said = refused(bench, *arguments)
        assert said.startswith(place)
        assert "has no meaning under torchrun" in said
        assert "use --processes P" in said

    @pytest.mark.parametrize(
        "arguments",
        [["--budget", "60"], ["--set", "measure.budget_s=60"], ["--set", "measure={budget_s: 60}"]],
    )
    def test_a_budget_that_is_given_is_the_launchs_own(
        self, bench: Bench, arguments: list[str]
    ) -> None:
        head = HEAD.replace("launches: 1", "launches: 3\n  precision_target: 5")
        measure = planned(bench, *arguments, head=head).requested.measure
        assert (measure.budget_s, measure.launches, measure.precision_target) == (60.0, 1, None)

    def test_a_scenarios_budget_is_shared_by_its_launches(self, bench: Bench) -> None:
        head = HEAD.replace("launches: 1", "launches: 2")
        assert planned(bench, head=head).requested.measure.budget_s == pytest.approx(0.1)


class TestProcesses:
    def test_those_that_torchrun_has_started_are_the_ranks(self, bench: Bench) -> None:
        record = planned(bench)
        assert (record.processes, record.requested.knobs.engine) == (2, "ddp")

    @pytest.mark.parametrize("arguments", [["--processes", "2"], ["--set", "processes=2"]])
    def test_an_equal_number_may_be_set(self, bench: Bench, arguments: list[str]) -> None:
        assert planned(bench, *arguments).processes == 2

    @pytest.mark.parametrize(
        ("arguments", "cases", "head"),
        [
            ([], "", HEAD + FOUR),
            ([], "matrix: { processes: [4] }\n", HEAD),
            (["--processes", "4"], "", HEAD),
            (["--set", "processes=4"], "", HEAD),
            (["--sweep", "processes=4"], "", HEAD),
        ],
    )
    def test_another_number_is_refused_with_both(
        self, bench: Bench, arguments: list[str], cases: str, head: str
    ) -> None:
        said = refused(bench, *arguments, cases=cases, head=head)
        assert "it sets processes=4, and torchrun has started 2" in said
        assert "start 4 with torchrun, or set processes to 2" in said


class TestCompileCache:
    @pytest.fixture(autouse=True)
    def _torchrun(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        for name, value in RANK_0_OF_2.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MASTER_PORT", "29500")

    def test_the_ranks_of_a_machine_share_one_which_the_first_removes(self, tmp_path: Path) -> None:
        with inplace.compile_cache(World(rank=2, size=4, local_rank=0)) as first:
            (first / "kernel.so").touch()
            with inplace.compile_cache(World(rank=3, size=4, local_rank=1)) as second:
                assert second == first
            assert (first / "kernel.so").exists()
            assert first.stat().st_mode & 0o077 == 0
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "name", ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT"]
    )
    def test_another_run_or_attempt_has_another(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        place = World(rank=0, size=2, local_rank=0)
        with inplace.compile_cache(place) as first:
            monkeypatch.setenv(name, "7")
            with inplace.compile_cache(place) as second:
                assert second != first

    def test_one_that_somebody_else_made_is_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        owner = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
        place = World(rank=0, size=2, local_rank=0)
        with (
            pytest.raises(TemporaryError, match="belongs to another user"),
            inplace.compile_cache(place),
        ):
            pass


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(400)
class TestLaunched:
    def test_compiling_is_cold_whatever_the_user_has_compiled_before(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        users = tmp_path / "users"
        options: dict[str, Any] = {
            "command": TORCHRUN,
            "environment": {"TORCHINDUCTOR_CACHE_DIR": str(users)},
        }
        scenario = bench.scenario("compiled")
        finished = bench.run(scenario, "--set", "compile=inductor", backend="cpu", **options)
        assert finished.code == 0, finished.stderr
        (record,) = bench.records()
        assert record.launches[0].compilation.cache == "cold"
        assert finished.rows[0]["compile_cold_s"] == record.launches[0].compilation.seconds
        assert not users.exists()
        assert list(bench.temporary.glob("bench-*")) == []

    def test_a_failure_carries_its_traceback(self, bench: Bench) -> None:
        scenario = bench.scenario("broken", "model_kwargs: { fault: raises in build }\n")
        bench("run", scenario, "--backend", "toy", command=TORCHRUN)
        (record,) = bench.records()
        assert "in _raise" in (record.log_tail or "")
        assert str(bench.cwd) not in (record.log_tail or "")
