"""A rank is kept on its share of the CPUs, and tells where it ran."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.backends import host
from bench.backends.base import World
from bench.results.record import Noise, RankPlace
from bench.worker import place
from tests.worker.a_job import a_job

ROOT = Path(__file__).parents[2]
SECOND = """
import sys
from pathlib import Path

from bench.backends.base import World
from bench.worker import place
from tests.worker.a_job import a_job

cpus = tuple(int(cpu) for cpu in sys.argv[2].split(","))
job = a_job(Path(sys.argv[1])).model_copy(update={"cpus_of_ranks": ((), cpus)})
world = World(rank=3, size=4, local_rank=1, nodes=2, node=1)
print(sorted(place.keep(job, world)))
print(place.here(world).model_dump_json())
"""


def test_a_rank_is_kept_on_its_own_share_and_says_so(tmp_path: Path) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system keeps no process on a CPU")
    cpu = max(host.cpus_allowed())
    variables = {"OMP_NUM_THREADS": "1", "NEURON_RT_VISIBLE_CORES": "5"}
    done = subprocess.run(
        [sys.executable, "-c", SECOND, str(tmp_path), str(cpu)],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    of_all, own = done.stdout.splitlines()
    assert of_all == str([cpu])
    assert RankPlace.model_validate_json(own) == RankPlace(
        node=1,
        local_rank=1,
        cpus=[cpu],
        omp_num_threads="1",
        shown={"NEURON_RT_VISIBLE_CORES": "5"},
    )


def test_without_shares_a_rank_goes_where_the_system_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert place.keep(a_job(tmp_path), World()) is None
    found = place.here(World())
    assert (found.node, found.local_rank, found.omp_num_threads) == (0, 0, None)
    assert found.cpus == sorted(host.cpus_allowed())


def test_a_node_that_cannot_tell_of_others_leaves_their_share_unknown() -> None:
    pytest.importorskip("torch")
    from bench.worker.session import RankReport, noise_of_all

    def report(node: int, local_rank: int, share: float | None) -> RankReport:
        return RankReport(
            window_s=[1.0],
            peak_memory_bytes=None,
            host_peak_rss_bytes=None,
            energy=None,
            clocks=None,
            checks=[],
            place=RankPlace(node=node, local_rank=local_rank, cpus=[0]),
            noise=Noise(co_tenant_share=share, reasons=["busy"] if node else []),
            fallbacks=None,
        )

    found = noise_of_all([report(0, 0, 0.01), report(0, 1, None), report(1, 0, 0.02)])
    assert (found.co_tenant_share, found.reasons) == (0.02, [])
    assert noise_of_all([report(0, 0, 0.01), report(1, 0, None)]).co_tenant_share is None
