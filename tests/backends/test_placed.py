"""Who started this process as a rank, and which place it was given."""

from __future__ import annotations

import pytest

from bench.backends.base import World
from bench.backends.placed import (
    Placed,
    announce,
    first_host,
    meeting_place,
    placed,
    tasks_per_node,
)

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "trn[07-08]",
}
BATCH = {"SLURM_JOB_ID": "4711", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}
"""What a batch script sees that has been given eight tasks."""


@pytest.mark.parametrize(("variables", "launcher"), [(TORCHRUN, "torchrun"), (SRUN, "srun")])
def test_a_rank_learns_its_place_from_either_launcher(
    variables: dict[str, str], launcher: str
) -> None:
    world = World(rank=5, size=8, local_rank=1, nodes=2, node=1)
    assert placed(variables) == Placed(launcher, world, local_size=4)
    assert world.local_size == 4


@pytest.mark.parametrize(
    "variables",
    [{}, BATCH, {**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, {"RANK": "1", "WORLD_SIZE": "2"}],
    ids=["a shell", "a batch script", "srun with one task", "a rank of ours"],
)
def test_who_is_alone_is_nobodys_rank(variables: dict[str, str]) -> None:
    assert placed(variables) is None


def test_torchrun_under_srun_has_started_the_ranks_itself() -> None:
    told = placed({**SRUN, **TORCHRUN})
    assert told is not None
    assert told.launcher == "torchrun"


def test_different_numbers_of_ranks_on_the_nodes_are_seen_from_each() -> None:
    even = placed(SRUN)
    first = placed({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "7,1"})
    single = placed({**TORCHRUN, "GROUP_WORLD_SIZE": "1"})
    assert even is not None
    assert first is not None
    assert single is not None
    assert [told.uneven for told in (even, first, single)] == [False, True, False]


def test_what_srun_has_told_is_said_in_torchruns_words() -> None:
    told = placed(SRUN)
    assert told is not None
    variables = dict(SRUN)
    announce(told, variables)
    said = {name: value for name, value in variables.items() if name not in SRUN}
    assert said == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "MASTER_ADDR": "trn07",
        "MASTER_PORT": "19711",
    }


def test_a_place_to_meet_that_the_user_names_stays() -> None:
    told = placed(SRUN)
    assert told is not None
    variables = {**SRUN, "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500"}
    announce(told, variables)
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("10.0.0.7", "29500")


def test_what_torchrun_has_told_needs_no_translation() -> None:
    told = placed(TORCHRUN)
    assert told is not None
    variables = dict(TORCHRUN)
    announce(told, variables)
    assert variables == TORCHRUN


def test_tasks_of_one_machine_meet_where_no_name_need_resolve() -> None:
    alone = {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_NODEID": "0"}
    told = placed(alone)
    assert told is not None
    assert meeting_place(told, alone)[0] == "127.0.0.1"


def test_neighbouring_jobs_and_their_steps_meet_at_ports_of_their_own() -> None:
    told = placed(SRUN)
    assert told is not None
    ports = {
        meeting_place(told, {**SRUN, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})[1]
        for job in range(900_000, 900_050)
        for step in range(20)
    }
    assert len(ports) == 50 * 20
    assert min(ports) >= 15000
    assert max(ports) < 32000


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("trn1", "trn1"),
        ("trn1,trn2", "trn1"),
        ("gpu[003-005,7]-a,login", "gpu003-a"),
        ("rack[2,4]node[01-16]", "rack2node01"),
        ("queue-dy-trn1[1-2]", "queue-dy-trn11"),
    ],
)
def test_the_first_of_slurms_hosts(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_tasks_per_node_are_written_out() -> None:
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(ValueError, match="not a list of tasks per node: 'many'"):
        tasks_per_node("many")
