"""A real compiler in real launches: what it costs cold and warm, and one that does not work."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import time

import pytest

from bench.results.record import CheckResult, Outcome, Phase
from tests.run.driver import HEAD, Bench

MODEL = """\
import torch

def build():
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(48, 32), torch.nn.GELU(), torch.nn.Linear(32, 10)
    )
"""
COMPILED = "compile: inductor\n"
needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="inductor needs a C++ compiler"
)


def scenario(bench: Bench) -> str:
    (bench.cwd / "small.py").write_text(MODEL, encoding="utf-8")
    head = HEAD.replace("tiny:build", "small:build").replace("launches: 1", "launches: 2")
    return bench.scenario("compiled", COMPILED, head=head)


@pytest.mark.torch
@pytest.mark.slow
@needs_compiler
def test_the_first_launch_compiles_cold_and_the_second_finds_its_work_in_a_private_cache(
    bench: Bench,
) -> None:
    done = bench.run(scenario(bench), backend="cpu")
    assert done.code == 0, done.stderr
    cold, warm = bench.records()[0].launches
    assert [launch.compilation.cache for launch in (cold, warm)] == ["cold", "warm"]
    assert cold.compilation.seconds is not None
    assert warm.compilation.seconds is not None
    assert warm.compilation.seconds < cold.compilation.seconds
    for launch in (cold, warm):
        (ran,) = [check for check in launch.audit if check.name == "as_asked"]
        assert ran.result is CheckResult.PASS, ran.evidence
    # torch keeps precompiled headers for all programs of a user, whatever folder it is given.
    left = [p for p in bench.temporary.rglob("*") if "precompiled_headers" not in p.parts]
    assert [p.name for p in left] in ([], [f"torchinductor_{getpass.getuser()}"])


@pytest.mark.torch
@pytest.mark.slow
def test_a_compiler_that_does_not_work_is_a_row_of_its_own_kind(bench: Bench) -> None:
    done = bench.run(scenario(bench), backend="cpu", environment={"CXX": "false"})
    assert done.code == 4
    (record,) = bench.records()
    assert record.outcome is Outcome.COMPILE_FAILED
    assert record.log_tail
    assert "compile=none" in (record.remedy or "")


BESIDE = """\
cases:
  - case: eager
    set: {}
  - case: one
    set: { compile: inductor }
  - case: two
    set: { compile: inductor, batch_size: 2 }
"""


def beside(bench: Bench) -> str:
    return bench.scenario("beside", BESIDE, head=_head(bench))


def _head(bench: Bench) -> str:
    (bench.cwd / "small.py").write_text(MODEL, encoding="utf-8")
    return HEAD.replace("tiny:build", "small:build").replace("launches: 1", "launches: 2")


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_compiler
def test_precompiled_cases_are_warm_from_their_first_launch_on(bench: Bench) -> None:
    plain = bench.run(beside(bench), "--case", "one", "--launches", "1", backend="cpu")
    assert plain.code == 0, plain.stderr
    (cold,) = bench.records()
    assert cold.precompiled is None
    assert cold.launches[0].compilation.cache == "cold"
    cold_s = cold.launches[0].compilation.seconds
    assert cold_s is not None
    shutil.rmtree(bench.results)
    done = bench.run(beside(bench), "--precompile", "--launches", "1", backend="cpu")
    assert done.code == 0, done.stderr
    warm = {record.requested.case: record for record in bench.records()}
    for case in ("one", "two"):
        (launch,), found = warm[case].launches, warm[case].precompiled
        assert launch.compilation.cache == "warm"
        assert launch.compilation.seconds is not None
        assert launch.compilation.seconds < cold_s
        assert found is not None
        assert found.compiles > 0
    assert {launch.compilation.cache for launch in warm["eager"].launches} == {"none"}
    assert warm["eager"].precompiled is None
    assert "beside / eager on cpu compiles nothing, and is launched as always" in done.stderr
    assert done.stderr.index("precompiling 2 cases") < done.stderr.index("round 1")
    assert "before the first launch, in " in bench("show", warm["one"].id).stdout


@pytest.mark.torch
@pytest.mark.slow
def test_a_case_whose_compiler_fails_is_a_row_before_anything_is_launched(bench: Bench) -> None:
    done = bench.run(beside(bench), "--precompile", backend="cpu", environment={"CXX": "false"})
    assert done.code == 4
    records = {record.requested.case: record for record in bench.records()}
    assert records["eager"].outcome is Outcome.OK
    for case in ("one", "two"):
        record = records[case]
        assert (record.outcome, record.phase) == (Outcome.COMPILE_FAILED, Phase.FIRST_STEP)
        assert record.launches == []
        assert record.precompiled is None
        assert record.log_tail
        assert "compile=none" in (record.remedy or "")
    launched = [line for line in done.stderr.splitlines() if ": launch " in line]
    assert all("beside / eager" in line for line in launched)
    assert list(bench.temporary.glob("bench-*")) == []


@pytest.mark.torch
@pytest.mark.slow
@needs_compiler
def test_interrupted_while_it_compiles_it_leaves_no_row_no_process_and_no_file(
    bench: Bench,
) -> None:
    running = bench.start("run", beside(bench), "--backend", "cpu", "--precompile")
    running.wait_for(lambda stderr: "precompiling" in stderr)
    # Well inside the untimed run or its compiler, which say nothing on their way.
    time.sleep(1.5)
    running.process.send_signal(signal.SIGINT)
    stopped = running.wait(30)
    assert stopped.code == 130, stopped.stderr
    assert bench.records() == []
    assert bench.processes() == []
    assert list(bench.temporary.glob("bench-*")) == []


@pytest.mark.torch
class TestRefused:
    def test_a_backend_that_keeps_nothing_is_named_with_its_reason(self, bench: Bench) -> None:
        done = bench.run(bench.scenario("kept"), "--precompile")
        assert done.code == 2
        (message,) = done.complaints
        assert "--precompile" in message
        assert "kept / default on toy cannot be precompiled" in message
        assert "toy keeps no compiled code from one process to the next" in message
        assert not bench.results.exists()

    def test_a_plan_that_compiles_nothing_is_refused_by_a_dry_run_too(self, bench: Bench) -> None:
        done = bench.run(bench.scenario("eager"), "--precompile", "--dry-run", backend="cpu")
        assert done.code == 2
        assert "nothing is compiled in these cases" in done.complaints[0]
