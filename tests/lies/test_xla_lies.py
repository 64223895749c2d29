"""Lies that only a device with graphs and a queue can tell, on real torch_xla on the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.backends.xla import XlaBackend
from bench.results.record import CheckResult, Outcome, Phase
from bench.run import ending
from tests.backends.xla_child import INSTALLED, ON_CPU, ROOT, TIMEOUT_S
from tests.lies import xla_runs
from tests.lies.real_runs import caught, first_passing, words
from tests.run.driver import Bench
from tests.worker.a_job import a_case, a_job

pytestmark = [
    pytest.mark.alone,
    pytest.mark.xla,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not INSTALLED, reason="torch_xla is not installed"),
]

DEVICE_BOUND = {
    "model": "tests.lies.xla_plants:wide_mlp",
    "model_kwargs": {},
    "batch_size": 64,
    "optimizer": "sgd",
    "loader": {"batches_per_execution": 4},
}
"""The device takes longer for a graph than the host for the next, so its queue is never empty."""


def test_the_control_is_a_launch_that_nothing_catches() -> None:
    launch = first_passing("fence_waits", lambda: xla_runs.launched("nothing", **DEVICE_BOUND))
    assert caught(launch) == set()


def test_a_fence_that_does_not_wait_is_caught_by_fence_waits() -> None:
    launch = xla_runs.launched("fence_that_does_not_wait", **DEVICE_BOUND)
    [fence] = [check for check in launch.audit if check.name == "fence_waits"]
    assert fence.result is CheckResult.FAIL, fence.evidence


def test_an_autocast_that_does_nothing_is_caught_by_precision_ran() -> None:
    launch = xla_runs.launched("autocast_of_another_device", precision="amp-bf16")
    assert "precision_ran" in caught(launch)


def test_one_batch_sent_once_is_caught_by_batches_as_asked() -> None:
    assert "batches_as_asked" in caught(xla_runs.launched("one_batch_again_and_again"))


def test_devices_that_share_no_batch_are_caught_by_as_asked() -> None:
    narrow = DEVICE_BOUND | {"model_kwargs": {"width": 64}, "engine": "spmd"}
    launch = xla_runs.launched("whole_batch_on_every_device", **narrow)
    assert "as_asked" in caught(launch)
    assert "spmd.inputs: asked sharded, ran replicated" in words(launch, "as_asked")
    assert "batch_size: asked 64, ran 128" in words(launch, "as_asked")


@pytest.mark.parametrize("compiler", ["none", "openxla"])
def test_an_operator_on_the_host_is_caught_by_no_fallbacks(compiler: str) -> None:
    launch = xla_runs.launched("operator_on_the_host", compile=compiler)
    assert "no_fallbacks" in caught(launch)
    assert "aten::" in words(launch, "no_fallbacks")


def test_a_compiled_launch_without_an_operator_on_the_host_passes_no_fallbacks() -> None:
    launch = xla_runs.launched("nothing", compile="openxla")
    [check] = [check for check in launch.audit if check.name == "no_fallbacks"]
    assert check.result is CheckResult.PASS, check.evidence


def test_collectives_that_are_silently_the_identity_end_the_launch(tmp_path: Path) -> None:
    case = a_case({"processes": 2, "engine": "ddp"}, {"health": False})
    job = a_job(tmp_path, case).model_copy(update={"backend": "xla", "probe": ON_CPU})
    (tmp_path / "job.json").write_text(job.model_dump_json(by_alias=True), encoding="utf-8")
    environment = os.environ | XlaBackend().environment(case.knobs, ON_CPU)
    environment |= {"WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.lies.xla_ranks", str(tmp_path / "job.json")],
            cwd=ROOT,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [rank.communicate(timeout=TIMEOUT_S)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [1, 1], printed
    end = ending.judge(tmp_path, [1, 1], [Phase.BUILD] * 2, False)
    assert end.outcome is Outcome.CRASH
    assert re.fullmatch(
        r"rank [01]: world \d of 2, all-reduce of rank \+ 1 gives [12], expected 3", end.reason
    )


def test_two_processes_on_pjrt_cpu_are_refused_by_the_command_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    finished = bench.run(bench.scenario("pair"), "--processes", "2", backend="xla")
    assert finished.code == 0, finished.stderr
    row = finished.row("default")
    assert (row["outcome"], row["samples_per_s"]) == ("unsupported", None)
    assert "do not communicate" in row["reason"]
