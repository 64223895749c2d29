"""What a machine can do for a case of several is asked of its own share of the ranks."""

from __future__ import annotations

import pytest

from bench.backends import host
from bench.backends.base import Probe, World
from bench.backends.cpu import CpuBackend
from bench.backends.cuda import CudaBackend
from bench.backends.neuron_environment import of_rank
from bench.backends.neuron_refusals import on_cores, on_group
from bench.scenarios.schema import Knobs

TWO_GPUS = Probe(
    backend="cuda",
    available=True,
    device_model="NVIDIA H200",
    device_count=2,
    flavour="cuda",
    facts={"capability": [9, 0], "nccl": "2.30.7", "alike": True},
)
TRN1 = Probe(
    backend="neuron",
    available=True,
    device_count=32,
    facts={"family": "trn1", "cores_shown": None, "physical_cores": 32},
)


def on_nodes(processes: int, nodes: int) -> Knobs:
    return Knobs(processes=processes, nodes=nodes)


def test_gpus_are_counted_by_machine() -> None:
    refused = [CudaBackend().refusals(on_nodes(4, nodes), TWO_GPUS) for nodes in (1, 2)]
    assert [[refusal.knob for refusal in found] for found in refused] == [["processes"], []]


def test_cpus_are_counted_by_machine() -> None:
    probe = Probe(backend="cpu", available=True, facts={"cpus": 2})
    refused = [CpuBackend().refusals(on_nodes(4, nodes), probe) for nodes in (1, 2)]
    assert [[refusal.knob for refusal in found] for found in refused] == [["processes"], []]


def test_neuron_cores_and_their_groups_are_counted_by_machine() -> None:
    both = [[*on_cores(k, TRN1), *on_group(k, TRN1)] for k in (on_nodes(64, 1), on_nodes(64, 2))]
    assert [[refusal.knob for refusal in found] for found in both] == [["processes"], []]
    assert [refusal.knob for refusal in on_group(on_nodes(12, 2), TRN1)] == ["processes"]


def test_a_rank_of_the_second_machine_has_a_core_of_its_own_and_meets_on_the_first() -> None:
    world = World(rank=33, size=64, local_rank=1, nodes=2)
    found = of_rank(world, {"MASTER_ADDR": "10.0.0.11"})
    assert found["NEURON_RT_VISIBLE_CORES"] == "1"
    assert found["NEURON_PJRT_PROCESS_INDEX"] == "33"
    assert found["NEURON_RT_ROOT_COMM_ID"] == "10.0.0.11:62182"
    assert (found["PJRT_LOCAL_PROCESS_COUNT"], found["PJRT_LOCAL_PROCESS_RANK"]) == ("32", "1")


def test_threads_are_shared_among_the_ranks_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpus_allowed", lambda: frozenset(range(16)))
    assert host.threads_per_rank(on_nodes(4, 1)) == 4
    assert host.threads_per_rank(on_nodes(4, 2)) == 8


def test_gloo_stays_on_the_loopback_of_one_machine_only() -> None:
    assert host.environment(on_nodes(2, 1)).get("GLOO_SOCKET_IFNAME") in ("lo", None)
    assert "GLOO_SOCKET_IFNAME" not in host.environment(on_nodes(2, 2))
