"""The audit checks of a launch: each sees the evidence and gives a result with its figures.

A check is a function with a paragraph of explanation. What its failure means for the row is its
weight: the number is wrong (`suspect`), the machine disturbed it (`noisy`), or the number is right
and the reader should know something about it (`remark`). Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.audit.checks.clock import fence_waits, no_compile_in_window, steady_state
from bench.audit.checks.device import executions_counted, no_fallbacks
from bench.audit.checks.loader import loader_bound
from bench.audit.checks.machine import clocks_held, machine_quiet
from bench.audit.checks.memory import memory_flat
from bench.audit.checks.precision import flops_below_peak, precision_ran
from bench.audit.checks.ranks import devices_real, nodes_apart, offload_saves, ranks_agree
from bench.audit.checks.steady import windows_steady
from bench.audit.checks.training import loss_finite, parameters_moved, updates_counted
from bench.audit.checks.work import (
    as_asked,
    batch_as_asked,
    batches_as_asked,
    collectives_real,
    compiled_whole,
    gradients_untouched,
)
from bench.audit.evidence import Evidence
from bench.audit.finding import Finding
from bench.results.record import Check, Weight

CHECKS: Mapping[Callable[[Evidence], Finding], Weight] = {
    fence_waits: Weight.SUSPECT,
    no_compile_in_window: Weight.SUSPECT,
    steady_state: Weight.SUSPECT,
    windows_steady: Weight.SUSPECT,
    memory_flat: Weight.SUSPECT,
    executions_counted: Weight.SUSPECT,
    no_fallbacks: Weight.SUSPECT,
    parameters_moved: Weight.SUSPECT,
    updates_counted: Weight.SUSPECT,
    loss_finite: Weight.SUSPECT,
    batch_as_asked: Weight.SUSPECT,
    batches_as_asked: Weight.SUSPECT,
    gradients_untouched: Weight.SUSPECT,
    as_asked: Weight.SUSPECT,
    precision_ran: Weight.SUSPECT,
    flops_below_peak: Weight.SUSPECT,
    collectives_real: Weight.SUSPECT,
    ranks_agree: Weight.SUSPECT,
    machine_quiet: Weight.NOISY,
    clocks_held: Weight.NOISY,
    loader_bound: Weight.REMARK,
    compiled_whole: Weight.REMARK,
    offload_saves: Weight.REMARK,
    nodes_apart: Weight.REMARK,
    devices_real: Weight.REMARK,
}
"""In the order of the page that `bench show` prints."""


def audit(evidence: Evidence) -> list[Check]:
    """Run every check over one rank's evidence, in a fixed order."""
    findings = []
    for check, weight in CHECKS.items():
        result, text = check(evidence)
        findings.append(Check(name=check.__name__, result=result, evidence=text, weight=weight))
    return findings


def explain(name: str) -> str:
    """Return the explanation of a check: the paragraph a person reads.

    Raises:
        KeyError: no check has that name.
    """
    documented = {check.__name__: check.__doc__ or "" for check in CHECKS}
    return " ".join(documented[name].split())
