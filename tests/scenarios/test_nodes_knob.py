"""`nodes` shares the ranks out over machines, and tells rows of several from those of one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bench.scenarios.identity import series_key, work_key
from bench.scenarios.schema import Knobs


def test_ranks_are_shared_out_equally() -> None:
    knobs = Knobs(processes=64, nodes=2)
    assert (knobs.local_processes, knobs.engine) == (32, "ddp")
    assert Knobs(processes=4).local_processes == 4


def test_without_a_number_of_processes_each_node_has_one() -> None:
    knobs = Knobs(nodes=3)
    assert (knobs.processes, knobs.local_processes, knobs.engine) == (3, 1, "ddp")
    assert "processes" not in knobs.model_fields_set


@pytest.mark.parametrize(("processes", "nodes"), [(1, 2), (3, 2), (32, 3)])
def test_unequal_shares_are_refused_with_the_remedy(processes: int, nodes: int) -> None:
    with pytest.raises(ValidationError) as caught:
        Knobs(processes=processes, nodes=nodes)
    said = f"nodes={nodes} cannot have equal shares of processes={processes}"
    assert said in str(caught.value)
    assert "set processes to a multiple of nodes" in str(caught.value)


def test_the_same_ranks_on_more_machines_do_the_same_work_in_another_series() -> None:
    one, two = Knobs(processes=4), Knobs(processes=4, nodes=2)
    keys = [series_key(k, backend="cpu", device_model="m", world=4) for k in (one, two)]
    assert work_key(one) == work_key(two)
    assert keys[0] != keys[1]
