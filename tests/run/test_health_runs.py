"""Real health passes: a case that is frozen, two ranks, one that is killed, none at all."""

from __future__ import annotations

from typing import Any

import pytest

from bench.results.health import HealthRun
from bench.results.record import Outcome, Phase
from bench.run import health as passes
from bench.run import launching
from bench.run.launching import Order
from bench.run.plan import plan
from tests.builders import a_case
from tests.run.driver import Bench
from tests.run.examiner import HERE
from tests.small_vit import SMALL_VIT

pytestmark = [pytest.mark.torch, pytest.mark.slow]

HEAD = """\
schema: 1
name: {name}
model: vit_tiny_patch16_224
model_kwargs: {{ patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2 }}
image_size: 32
classes: 10
batch_size: 8
threads: 1
data: {{ source: cached }}
measure:
  {{ launches: 1, budget_s: 0.3, windows: 3, warmup_s: 0, warmup_steps: 2, diagnostics: false }}
"""
FREEZE = """\
learning_rate: 1.0e-5
matrix: { precision: [fp32, bf16] }
"""
SHORT_LIVED = """\
import os
import signal
from pathlib import Path
import torch

def build():
    first = Path("first")
    if not first.exists():
        first.write_text(str(os.getpid()))
    if first.read_text() != str(os.getpid()):
        os.kill(os.getpid(), signal.SIGKILL)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
"""


def passed(**knobs: Any) -> HealthRun:
    """Run the health pass of the small ViT in processes of its own."""
    case = a_case(knobs={**SMALL_VIT, **knobs}, measure={"health_steps": 4})
    (found,) = plan([case], [HERE], {})
    order = Order(passes.passing(found), 0, 3, "session-1", 0, 120.0, "none")
    phases: list[Phase] = []
    result = launching.run_health(order, lambda e: phases.append(e.phase), lambda: False)
    assert isinstance(result, HealthRun), result
    assert Phase.HEALTH in phases
    return result


def test_two_ranks_over_one_batch_train_as_one_process_does() -> None:
    alone, pair = passed(), passed(processes=2)
    assert alone.updates == pair.updates == 4
    assert pair.losses == pytest.approx(alone.losses, abs=1e-4)
    assert pair.gradient_norm == pytest.approx(alone.gradient_norm, rel=1e-4)
    assert alone.losses[-1] is not None
    assert alone.losses[-1] < 2.0


def test_a_run_marks_the_case_that_is_frozen_and_keeps_the_reference(bench: Bench) -> None:
    scenario = bench.scenario("freeze", FREEZE, HEAD)
    finished = bench.run(scenario, backend="cpu")
    assert finished.code == 0, finished.stderr
    assert finished.stderr.count("on cpu: health pass") == 2
    fp32, bf16 = (bench.record(f"precision={name}").health for name in ("fp32", "bf16"))
    assert fp32 is not None
    assert bf16 is not None
    assert (fp32.learns, fp32.loss_gap, fp32.learned_share) == (True, 0.0, 1.0)
    assert bf16.learns is False
    assert "it does not train: its loss on one batch" in finished.stderr
    assert bf16.reference_loss_first == fp32.loss_first
    assert bf16.reference_loss_last == fp32.loss_last
    (kept,) = [name for name in bench.files() if not name.startswith("runs/")]
    assert kept.startswith("cache/health/")
    assert bench.processes() == []


def test_without_health_there_is_none_and_the_record_repeats_so(bench: Bench) -> None:
    finished = bench.run(bench.scenario("plain", "", HEAD), "--no-health", backend="cpu")
    assert finished.code == 0, finished.stderr
    (record,) = bench.records()
    assert record.health is None
    assert record.requested.measure.health is False
    assert "health pass" not in finished.stderr
    assert all(name.startswith("runs/") for name in bench.files())


def test_a_process_that_is_killed_in_the_pass_keeps_its_number(bench: Bench) -> None:
    (bench.cwd / "short.py").write_text(SHORT_LIVED, encoding="utf-8")
    own = ("--set", "model=short:build", "--set", "model_kwargs={}")
    finished = bench.run(bench.scenario("short", "", HEAD), *own, backend="cpu")
    assert finished.code == 0, finished.stderr
    (record,) = bench.records()
    assert record.outcome is Outcome.OK
    assert record.statistics is not None
    assert record.health is not None
    assert record.health.learns is None
    reason = record.health.reason or ""
    assert reason.startswith("the health pass ended as crash in phase build: killed from outside")
    assert bench.processes() == []
