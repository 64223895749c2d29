"""The CPUs of a rank: keeping it on those that its job names, and telling where it ran.

Torch-free.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from bench.backends import host
from bench.backends.base import World
from bench.results.record import RankPlace
from bench.worker.job import Job

_SHOWN = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "NEURON_RT_VISIBLE_CORES",
    "ROCR_VISIBLE_DEVICES",
    "TPU_VISIBLE_CHIPS",
)


def keep(job: Job, world: World) -> Collection[int] | None:
    """Keep this rank on its share of the CPUs, and return those of all ranks; null: it has none.

    To be called once the device is open, which counts the CPUs to find its number of threads.
    """
    if job.cpus_of_ranks is None:
        return None
    host.keep_on(job.cpus_of_ranks[world.local_rank])
    return frozenset(cpu for share in job.cpus_of_ranks for cpu in share)


def here(world: World) -> RankPlace:
    """Return where this rank runs."""
    return RankPlace(
        node=world.node,
        local_rank=world.local_rank,
        cpus=sorted(host.cpus_allowed()),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        shown={name: os.environ[name] for name in _SHOWN if name in os.environ},
    )
