"""Two ranks of one launch: same weights, different samples, and the gradients of both."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.audit.checks import as_asked
from bench.results.record import CheckResult
from tests.audit.honest import HONEST, knobs

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]
RANK = """
import sys
from tests.worker.test_ranks import rank
rank(sys.argv[1])
"""


def rank(folder: str) -> None:
    """Build the work as one of two ranks, and print what it starts from and is fed."""
    from bench.backends import host
    from bench.backends.cpu import CpuDevice
    from bench.measure.alignment import Alignment
    from bench.worker import building, inspection, peers
    from bench.worker.job import world_from_environment
    from tests.worker.a_job import a_case, a_job

    case = a_case({"processes": 2, "data": {"source": "random"}})
    world, device = world_from_environment(), CpuDevice(1)
    peers.join(world, device, Path(folder))
    evidence = peers.prove_collectives(world, device)
    built = building.build(a_job(Path(folder), case), world, device)
    images, _labels = next(built.step.batches)
    weights = torch.cat([p.detach().flatten() for p in built.model.parameters()])
    together = peers.DistPeers(world, device)

    def kept() -> float | None:
        feed = built.step.batches
        return inspection.run(case.knobs, built, device, Alignment(), feed).gradient_kept

    def clipped(optimizer: torch.optim.Optimizer) -> None:
        torch.nn.utils.clip_grad_norm_(built.model.parameters(), 1.0)
        optimizer.step()

    untouched = kept()
    os.environ[host.STAND_IN_VARIABLE] = "1"
    standing_in = peers.DistPeers(replace(world, nodes=2, node=world.rank), device).where()
    del os.environ[host.STAND_IN_VARIABLE]
    boot_id = host.boot_id
    if world.rank == 1:
        host.boot_id = lambda: None
    unknown = together.where()
    host.boot_id = boot_id
    device.step_optimizer = clipped  # type: ignore[method-assign]
    found: dict[str, Any] = {
        "weights": hashlib.sha256(weights.numpy().tobytes()).hexdigest(),
        "images": hashlib.sha256(images.numpy().tobytes()).hexdigest(),
        "evidence": evidence,
        "most": together.most(float(world.rank)),
        "any": together.any(world.rank == 1),
        "none": together.any(False),
        "gathered": together.gather(world.rank),
        "alike": together.where(),
        "standing_in": standing_in,
        "unknown": unknown,
        "untouched": untouched,
        "clipped": kept(),
    }
    print(json.dumps(found))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(folder)],
            cwd=ROOT,
            env={**os.environ, **loopback, "RANK": str(index), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        answers = [child.communicate(timeout=120)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0]
    return [json.loads(answer.splitlines()[-1]) for answer in answers]


def test_ranks_share_their_weights_and_not_their_samples(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["images"] != ranks[1]["images"]


def test_the_all_reduce_probe_adds_over_both(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["evidence"] == "world 2 of 2, all-reduce of rank + 1 gives 3"


def test_ranks_agree_and_only_the_first_gathers(ranks: list[dict[str, Any]]) -> None:
    assert [r["most"] for r in ranks] == [1.0, 1.0]
    assert [r["any"] for r in ranks] == [True, True]
    assert [r["none"] for r in ranks] == [False, False]
    assert [r["gathered"] for r in ranks] == [[0, 1], None]


def test_ranks_of_one_machine_are_one_node_unless_they_stand_for_several(
    ranks: list[dict[str, Any]],
) -> None:
    assert [r["alike"] for r in ranks] == [[1, 1], [1, 1]]
    assert [r["standing_in"] for r in ranks] == [[2, 1], [2, 1]]
    assert [r["unknown"] for r in ranks] == [[None, None], [None, None]]


@pytest.mark.parametrize(
    ("told", "result"),
    [((None, None), CheckResult.PASS), ((2, 2), CheckResult.PASS), ((1, 1), CheckResult.FAIL)],
)
def test_a_system_that_tells_no_machine_from_another_is_no_substitution(
    told: tuple[int | None, int | None], result: CheckResult
) -> None:
    from bench.worker import session
    from bench.worker.peers import Where

    asked = replace(HONEST, knobs=knobs(processes=2, nodes=2))
    assert as_asked(session._over_nodes(asked, Where(*told)))[0] is result


def test_averaged_gradients_are_compared_with_what_the_optimizer_gets(
    ranks: list[dict[str, Any]],
) -> None:
    assert [r["untouched"] for r in ranks] == [1.0, 1.0]
    assert [r["clipped"] < 0.01 for r in ranks] == [True, True]
