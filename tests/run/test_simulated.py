"""Records of a simulated device: kept apart, and found again by --resume."""

from __future__ import annotations

import pytest

from bench.results.record import Outcome
from bench.results.store import Store
from tests.run.driver import Bench

pytestmark = [pytest.mark.torch, pytest.mark.slow]

SIMULATED = {"TOY_SIMULATED": "1"}
TWO = """\
cases:
  - case: good
    set: {}
  - case: bad
    set: { model_kwargs: { fault: raises in build } }
"""


def apart(bench: Bench) -> list[str]:
    """Return the cases whose records lie in the folder for simulated devices."""
    store = Store(bench.results).simulated()
    return sorted(stored.record.requested.case for stored in store.records())


def test_resume_skips_what_a_simulated_run_has_finished_and_repeats_what_failed(
    bench: Bench,
) -> None:
    scenario = bench.scenario("pretended", TWO)
    first = bench.run(scenario, environment=SIMULATED)
    assert (first.code, apart(bench), bench.records()) == (4, ["bad", "good"], [])
    again = bench.run(scenario, "--resume", environment=SIMULATED)
    assert again.stderr.count(": launch ") == 1
    assert apart(bench) == ["bad", "bad", "good"]
    assert again.row("good")["record"] == first.row("good")["record"]
    assert again.row("good")["simulated"] is True
    assert again.row("bad")["outcome"] == Outcome.CRASH


def test_a_real_device_and_a_simulated_one_never_finish_each_others_cases(bench: Bench) -> None:
    scenario = bench.scenario("pretended")
    assert bench.run(scenario).code == 0
    pretended = bench.run(scenario, "--resume", environment=SIMULATED)
    assert pretended.stderr.count(": launch ") == 1
    assert len(apart(bench)) == 1
    assert bench.run(scenario, "--resume").stderr.count(": launch ") == 0
    for file in (bench.results / "runs").rglob("2*.json"):
        file.unlink()
    real = bench.run(scenario, "--resume")
    assert real.stderr.count(": launch ") == 1
    assert len(bench.records()) == 1
