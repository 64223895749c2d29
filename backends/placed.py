"""Under somebody else's launcher: which one it is, and the place that it gave this process.

torchrun tells a rank its place in the variables that torch and the libraries around it read. Srun,
which is Slurm's, has variables of its own and names no place to meet: `announce` says in torchrun's
words what srun has told. Torch-free.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from bench.backends.base import World

TORCHRUN, SRUN = "torchrun", "srun"
SLURM_RANK_VARIABLES = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")
_FIRST_PORT, _PORTS = 15000, 17000
"""Below those that Linux gives to outgoing connections."""
_STEP_STRIDE = 97
"""Keeps the ports of a job's steps apart from those of the next few jobs."""


@dataclass(frozen=True)
class Placed:
    """What somebody else's launcher has told this process."""

    launcher: str
    """As messages name it."""
    world: World
    local_size: int
    """Ranks on this machine."""

    @property
    def uneven(self) -> bool:
        """Whether the machines have different numbers of ranks, as far as this one can tell."""
        nodes = self.world.nodes
        return nodes > 1 and self.local_size * nodes != self.world.size


def placed(variables: Mapping[str, str] | None = None) -> Placed | None:
    """Return what torchrun or srun has told this process; null: neither started it as a rank.

    A program that srun starts once is started as by a shell: there is nobody to join.

    Args:
        variables: The environment; null: this process's own.
    """
    told = os.environ if variables is None else variables
    if "TORCHELASTIC_RUN_ID" in told:
        return _by_torchrun(told)
    # In a batch script SLURM_PROCID and SLURM_NTASKS are set too; of a step only srun tells.
    if "SLURM_PROCID" in told and int(told.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _by_srun(told)
    return None


def meeting_place(told: Placed, variables: Mapping[str, str]) -> tuple[str, int]:
    """Return host and port at which all tasks of an srun can meet, without a word between them."""
    return _first_host(variables, told.world.nodes), _port(variables)


def announce(told: Placed, variables: MutableMapping[str, str]) -> None:
    """Say what srun has told in torchrun's words, for whatever runs in this process.

    A place to meet that the user has named (MASTER_ADDR, MASTER_PORT) stays.
    """
    if told.launcher != SRUN:
        return
    world = told.world
    variables.update(
        RANK=str(world.rank),
        WORLD_SIZE=str(world.size),
        LOCAL_RANK=str(world.local_rank),
        LOCAL_WORLD_SIZE=str(told.local_size),
        GROUP_RANK=str(world.node),
        GROUP_WORLD_SIZE=str(world.nodes),
    )
    host, port = meeting_place(told, variables)
    variables.setdefault("MASTER_ADDR", host)
    variables.setdefault("MASTER_PORT", str(port))


def first_host(hosts: str) -> str:
    """Return the first name of Slurm's short form of a list, as in `gpu[003-005,7]-a,login`."""
    first = re.split(r",(?![^\[]*\])", hosts, maxsplit=1)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def tasks_per_node(counts: str) -> list[int]:
    """Return how many tasks each node has, from Slurm's short form, as in `2(x3),1`.

    Raises:
        ValueError: it is not of that form.
    """
    found = []
    for part in counts.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise ValueError(f"not a list of tasks per node: {counts!r}")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def _by_torchrun(told: Mapping[str, str]) -> Placed:
    world = World(
        rank=int(told.get("RANK", "0")),
        size=int(told.get("WORLD_SIZE", "1")),
        local_rank=int(told.get("LOCAL_RANK", "0")),
        nodes=int(told.get("GROUP_WORLD_SIZE", "1")),
        node=int(told.get("GROUP_RANK", "0")),
    )
    return Placed(TORCHRUN, world, int(told.get("LOCAL_WORLD_SIZE", "1")))


def _by_srun(told: Mapping[str, str]) -> Placed:
    counts, node = tasks_per_node(told["SLURM_STEP_TASKS_PER_NODE"]), int(told["SLURM_NODEID"])
    world = World(
        rank=int(told["SLURM_PROCID"]),
        size=int(told["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(told["SLURM_LOCALID"]),
        nodes=len(counts),
        node=node,
    )
    return Placed(SRUN, world, counts[node])


def _first_host(variables: Mapping[str, str], nodes: int) -> str:
    # The name of a single machine need not resolve on it.
    return "127.0.0.1" if nodes == 1 else first_host(variables["SLURM_STEP_NODELIST"])


def _port(variables: Mapping[str, str]) -> int:
    """Return a port that all tasks of a step come to by themselves, and its neighbours do not."""
    job, step = int(variables["SLURM_JOB_ID"]), int(variables.get("SLURM_STEP_ID", "0"))
    return _FIRST_PORT + (job + _STEP_STRIDE * step) % _PORTS
