"""The engines over two nodes, for which two commands on this machine stand."""

from __future__ import annotations

import pytest

from bench.results.record import CheckResult, Outcome, Record
from tests.run.driver import Bench
from tests.run.test_engine_runs import CASES, HEAD, absent, failed, passed
from tests.run.test_rank_faults import SeveralNodes

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(900)]

ENGINES = ("fsdp", "accelerate", "zero 2")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    bench = Bench(tmp_path_factory.mktemp("nodes"))
    entries = [f"  - case: {name!r}\n    set: {{ {CASES[name]} }}\n" for name in ENGINES]
    scenario = bench.scenario("engines", "processes: 2\ncases:\n" + "".join(entries), HEAD)
    nodes = SeveralNodes(bench)
    second, first = (nodes.start(node, scenario, backend="cpu") for node in (1, 0))
    finished, other = first.wait(800), second.wait(60)
    assert (finished.code, other.code) == (0, 0), finished.stderr + other.stderr
    assert [row["case"] for row in finished.rows] == list(ENGINES)
    assert bench.processes() == []
    return {record.requested.case: record for record in bench.records()}


@pytest.mark.parametrize("case", ENGINES)
def test_an_engine_trains_over_two_nodes_and_passes_its_guards(
    records: dict[str, Record], case: str
) -> None:
    record = records[case]
    if absent(case):
        assert record.outcome is Outcome.UNSUPPORTED
        return
    assert record.outcome is Outcome.OK, record.reason
    (launch,) = record.launches
    assert failed(launch) == set()
    assert passed(launch, "collectives_real") == "world 2 of 2, all-reduce of rank + 1 gives 3"
    assert "weights are equal over the ranks" in passed(launch, "ranks_agree")
    assert "engine" in passed(launch, "as_asked")
    assert [(rank.node, rank.local_rank) for rank in launch.ranks] == [(0, 0), (1, 0)]
    assert record.requested.knobs.nodes == 2
    assert record.health is not None
    assert record.health.learns
    assert record.health.loss_gap == pytest.approx(0.0, abs=1e-4)


def test_a_row_of_nodes_on_one_machine_says_so(records: dict[str, Record]) -> None:
    (launch,) = records["fsdp"].launches
    (check,) = [check for check in launch.audit if check.name == "nodes_apart"]
    assert (check.result, str(check.weight)) == (CheckResult.FAIL, "remark")
    assert "2 nodes on 1 machine: " in check.evidence
