"""A real compiler in real launches: what it costs cold and warm, and one that does not work."""

from __future__ import annotations

import getpass
import os
import shutil

import pytest

from bench.results.record import CheckResult, Outcome
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
