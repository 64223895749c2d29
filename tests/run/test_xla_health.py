"""Health passes on real torch_xla: few graphs, the same losses however they are cut, a freeze."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.backends.registry import Prober
from bench.results.record import Health
from bench.run.health import HealthPass
from bench.run.launching import Order
from bench.run.plan import plan
from bench.scenarios.schema import Knobs
from tests.backends import xla_child
from tests.builders import a_case
from tests.small_vit import SMALL_VIT

pytestmark = [
    pytest.mark.xla,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not xla_child.INSTALLED, reason="torch_xla is not installed"),
]

CASES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "amp-bf16": {"precision": "amp-bf16"},
    "amp-bf16, two a graph": {"precision": "amp-bf16", "loader": {"batches_per_execution": 2}},
    "bf16, small rate": {"precision": "bf16", "learning_rate": 1e-5},
}


class Run:
    """The health pass of every case, one after the other, and the references that are left."""

    def __init__(self, results: Path) -> None:
        probe = Prober().probe("xla")
        pass_ = HealthPass(results)
        self._health: dict[str, Health] = {}
        for name, settings in CASES.items():
            knobs = {**SMALL_VIT, "data": {"source": "cached"}, **settings}
            (planned,) = plan([a_case(name, knobs=knobs)], [probe], {})
            order = Order(planned, 0, 3, "session-1", 0, 300.0, "none")
            self._health[name] = pass_.examine(order, lambda _event: None, lambda: False)
        self.kept = list(results.glob("cache/health/*.json"))

    def of(self, case: str) -> Health:
        return self._health[case]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("xla-health"))


def test_fp32_is_its_own_reference(run: Run) -> None:
    found = run.of("fp32")
    assert (found.learns, found.reason) == (True, None)
    assert (found.loss_gap, found.learned_share) == (0.0, 1.0)
    assert found.loss_first == pytest.approx(found.first_loss_expected, rel=0.2)


@pytest.mark.parametrize("case", ["amp-bf16", "amp-bf16, two a graph"])
def test_autocast_learns_as_fp32_does(run: Run, case: str) -> None:
    found = run.of(case)
    assert (found.learns, found.reason) == (True, None)
    assert found.learned_share == pytest.approx(1.0, abs=0.05)
    assert found.nonfinite_gradients == 0
    # Its products were rounded, so its losses are not those of fp32 to the last digit.
    assert found.loss_gap != 0.0


def test_how_a_graph_is_cut_does_not_change_what_is_learned(run: Run) -> None:
    one, two = run.of("amp-bf16"), run.of("amp-bf16, two a graph")
    assert two.loss_first == pytest.approx(one.loss_first, abs=1e-4)
    assert two.loss_last == pytest.approx(one.loss_last, abs=5e-3)
    assert two.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-3)


def test_pure_bf16_weights_freeze_at_a_small_rate(run: Run) -> None:
    found = run.of("bf16, small rate")
    assert found.learns is False
    assert found.learned_share is not None
    assert found.learned_share < 0.4


def test_cases_of_one_learning_rate_share_a_reference(run: Run) -> None:
    assert len(run.kept) == 2


@pytest.mark.parametrize(
    ("settings", "graphs", "executions", "micro_batches"),
    [
        # Of one micro-batch each: the first, which sets up the optimizer's state, and the others.
        ({}, 2, 5, 5),
        # 1 micro-batch, then 2 in each.
        ({"loader": {"batches_per_execution": 2}}, 2, 3, 5),
        # 2, then 3 in each: one update, or two, in turns.
        ({"loader": {"batches_per_execution": 3}, "gradient_accumulation": 2}, 3, 4, 11),
    ],
)
def test_what_is_looked_at_costs_no_graph_of_its_own(
    settings: dict[str, Any], graphs: int, executions: int, micro_batches: int
) -> None:
    knobs = {**SMALL_VIT, "data": {"source": "device", "pool": 1}, **settings}
    found = xla_child.run("xla_health.passes", Knobs.model_validate(knobs))
    four, twelve = found["4"], found["12"]
    assert (four["compiles"], twelve["compiles"]) == (graphs, 0)
    assert (four["executions"], four["micro_batches"]) == (executions, micro_batches)
    assert four["updates"] == 4
    assert twelve["losses"][:5] == pytest.approx(four["losses"], abs=1e-5)
    assert twelve["losses"][-1] < 0.6 * twelve["losses"][0]
    assert four["gradient_norm"] == pytest.approx(twelve["gradient_norm"])
    assert four["fallbacks"] == {}
