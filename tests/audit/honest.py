"""Evidence of an honest launch, and what a check finds after one change to it."""

from __future__ import annotations

import dataclasses
from typing import Any

from bench.audit.checks import audit
from bench.audit.evidence import Evidence
from bench.results.record import Check, CheckResult, Noise
from bench.scenarios.schema import Knobs

PASS, FAIL, NA = CheckResult.PASS, CheckResult.FAIL, CheckResult.NOT_APPLICABLE

HONEST = Evidence(
    knobs=Knobs(batch_size=8, gradient_accumulation=2),
    window_s=(1.0, 1.0, 1.0),
    residual_s=(0.0, 0.001, 0.002),
    voided_windows=0,
    windows_exhausted=False,
    steady=True,
    steady_reason="two groups agree",
    micro_batches=60,
    samples=480,
    batch_sizes=frozenset({8}),
    updates=30,
    executions=60,
    expected_executions=60,
    fallbacks={},
    moved_share=1.0,
    loss_first=6.9,
    loss_last=6.5,
    collectives=None,
    noise=Noise(co_tenant_share=0.01),
    asked={"precision": "fp32", "engine": "plain"},
    actual={"precision": "fp32", "engine": "plain", "threads": 2},
)


def found(name: str, **changes: Any) -> Check:
    """Return what one check finds in the honest evidence after these changes."""
    (check,) = [c for c in audit(dataclasses.replace(HONEST, **changes)) if c.name == name]
    return check


def knobs(**changes: Any) -> Knobs:
    return Knobs(**{"batch_size": 8, "gradient_accumulation": 2, **changes})
