"""A health pass that starts nothing: planned cases, and a runner that notes every order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.backends.base import Probe
from bench.results.health import HealthRun
from bench.results.record import Outcome, Phase
from bench.run.ending import End
from bench.run.launching import Order
from bench.run.plan import Planned, plan
from bench.worker.job import Event
from tests.builders import a_case

HERE = Probe(
    backend="cpu",
    available=True,
    device_model="Test CPU",
    device_count=1,
    facts={"cxx": "g++", "bf16_instructions": True},
)
LEARNS = HealthRun(losses=[2.3, 1.3], gradient_norm=6.0, nonfinite_gradients=0, updates=1)
FROZEN = HealthRun(losses=[2.3, 2.3], gradient_norm=6.0, nonfinite_gradients=0, updates=1)
KILLED = End(outcome=Outcome.OOM, phase=Phase.BUILD, reason="killed for want of memory")
Answer = Callable[[Order], HealthRun | End]


def planned(
    knobs: dict[str, Any] | None = None, measure: dict[str, Any] | None = None, name: str = "case"
) -> Planned:
    asked = {"classes": 10, **(knobs or {})}
    case = a_case(name, knobs=asked, measure={"health_steps": 1, **(measure or {})})
    (found,) = plan([case], [HERE], {})
    return found


class Examiner:
    """A runner of health passes that starts nothing and notes every order."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.orders: list[Order] = []
        self._answer = answer or (lambda _order: LEARNS)

    def __call__(
        self, order: Order, on_event: Callable[[Event], None], stop: Callable[[], bool]
    ) -> HealthRun | End:
        self.orders.append(order)
        return self._answer(order)

    @property
    def precisions(self) -> list[str]:
        return [order.planned.case.knobs.precision for order in self.orders]
