"""Comparing two cases from end to end, with real launches on the CPU."""

from __future__ import annotations

import os
import signal
import time

import pytest

from bench.backends import host
from bench.results.checks import failed
from bench.results.record import Outcome, Weight
from tests.run.driver import Bench
from tests.run.test_ab import wrapper

SMALL = """\
schema: 1
name: small
model: vit_tiny_patch16_224
model_kwargs: { patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2 }
image_size: 32
classes: 10
batch_size: 8
threads: 1
data: { source: cached }
measure: { launches: 1, budget_s: 0.6, warmup_s: 0.2, windows: 3, diagnostics: false }
"""


NET = """\
import os, torch, time
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(12, 10)
    def forward(self, x):
        time.sleep(0.002 * int(os.environ.get('TIMES', '1')))
        x = torch.nn.functional.adaptive_avg_pool2d(x, 2)
        return self.head(x.flatten(1))
def build():
    return Net()
"""
"""A user's own model, which does as the environment says."""


@pytest.fixture
def net(bench: Bench) -> str:
    (bench.cwd / "net.py").write_text(NET, encoding="utf-8")
    scenario = SMALL.replace("vit_tiny_patch16_224", "net:build")
    scenario = "\n".join(x for x in scenario.splitlines() if "model_kwargs" not in x)
    scenario += "\nlearning_rate: 0.05\n"
    (bench.cwd / "net.yaml").write_text(scenario, encoding="utf-8")
    return "net.yaml"


def contest_of(scenario: str, *options: str) -> tuple[str, ...]:
    return "ab", scenario, scenario, "--backend", "cpu", "--format", "json", *options


@pytest.mark.torch
@pytest.mark.alone
@pytest.mark.slow
class TestForReal:
    @pytest.mark.parametrize("how", ["by turns", "one at a time"])
    def test_an_environment_that_computes_more_is_slower(
        self, bench: Bench, net: str, how: str
    ) -> None:
        """B's interpreter sets a variable that makes the model three times as slow."""
        python = wrapper(bench.cwd, "TIMES=3")
        options = ("--one-at-a-time", "--no-health") if how == "one at a time" else ()
        finished = bench(*contest_of(net, "--pairs", "4", "--python-b", python, *options))
        (row,) = finished.rows
        assert row["design"] == "paired"
        assert row["ratio"] < 0.7
        # Where others used the machine nothing is decided, whatever the ratio is.
        found = ("INVALID", 3) if 2 * row["disturbed"] > 4 else ("SLOWER", 1)
        assert (row["verdict"], finished.code) == found
        assert [pair["round"] for pair in row["pairs"]] == [0, 1, 2, 3]
        learns = None if how == "one at a time" else True
        assert [row[side]["learns"] for side in "ab"] == [learns, learns]
        ours, theirs = sorted(bench.records(), key=lambda record: record.position)
        assert (ours.outcome, theirs.outcome) == (Outcome.OK, Outcome.OK)
        for pair, a, b in zip(row["pairs"], ours.launches, theirs.launches, strict=True):
            assert a.seed == b.seed
            assert (a.in_turns, b.in_turns) == (how == "by turns",) * 2
            assert a.cpus == b.cpus
            kept = how == "by turns" and host.cpus_visible() > 1
            assert (a.cpus is None) != kept
            assert pair["a_samples_per_s"] == a.samples_per_s
            assert pair["b_samples_per_s"] == b.samples_per_s
        assert failed([*ours.launches, *theirs.launches], Weight.SUSPECT) == []
        for record in bench.results.rglob("*.json"):
            assert python not in record.read_text(encoding="utf-8")
        assert bench.processes() == []

    def test_a_rank_that_is_killed_while_it_waits_ends_both(self, bench: Bench, net: str) -> None:
        python = wrapper(bench.cwd, "TIMES=200")
        running = bench.start(*contest_of(net, "--pairs", "4", "--no-health", "--python-b", python))
        # A has measured, and rests for nearly all of B's much longer windows.
        running.wait_for(lambda stderr: "  A: measuring" in stderr)
        # Nothing tells outside that its window is over; it takes a few milliseconds.
        time.sleep(0.5)
        (waiting,) = bench.ranks(without="TIMES")
        waiting.kill()
        finished = running.wait(30)
        assert finished.code == 4
        (row,) = finished.rows
        assert row["verdict"] == "INVALID"
        assert row["reason"].startswith("A has no number (crash): killed from outside")
        assert {r.side: r.outcome for r in bench.records()} == {"A": Outcome.CRASH}
        assert bench.processes() == []

    def test_an_interrupt_records_what_was_measured(self, bench: Bench) -> None:
        (bench.cwd / "small.yaml").write_text(SMALL, encoding="utf-8")
        running = bench.start(
            *("ab", "small.yaml", "small.yaml", "--backend", "cpu", "--pairs", "50"),
            *("--format", "json"),
        )
        running.wait_for(lambda stderr: "round 2: " in stderr)
        # Into the launches, which say nothing while they import.
        time.sleep(0.5)
        os.kill(running.process.pid, signal.SIGINT)
        finished = running.wait(30)
        assert finished.code == 130
        (row,) = finished.rows
        assert row["verdict"] == "INVALID"
        assert row["reason"].startswith("interrupted after 1 of 50 pairs")
        assert {record.outcome for record in bench.records()} == {Outcome.INTERRUPTED}
        assert bench.processes() == []

    def test_a_side_that_crashes_is_exit_code_4(self, bench: Bench) -> None:
        scenario = bench.scenario("broken")
        finished = bench(
            *("ab", scenario, scenario, "--backend", "toy", "--pairs", "4", "--format", "json"),
            *("--set-b", "measure.timeout_s=60", "--set", "model_kwargs.fault=raises in build"),
        )
        assert finished.code == 4, finished.stderr
        (row,) = finished.rows
        assert (row["design"], row["verdict"]) == ("paired", "INVALID")
        assert "has no number (crash)" in row["reason"]
