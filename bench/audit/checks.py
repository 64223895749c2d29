"""The audit checks of a launch: each sees the evidence and gives a result with its figures.

A check fails when the number would be wrong, never because the machine was noisy: noise has a
verdict of its own. Torch-free.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from bench.audit.evidence import Evidence
from bench.results.record import Check, CheckResult

_RESIDUAL_SHARE = 0.01
_RESIDUAL_FLOOR_S = 0.0005
"""Two reads of one small tensor differ by this much on a busy host, whatever the fence did."""
_LEAST_DOUBLING = 1.25
"""Far below 2, since a busy machine bends the ratio of two short blocks; a blind clock gives 1."""
_MOVED_SHARE = 0.5

Finding = tuple[CheckResult, str]
_PASS, _FAIL, _NA = CheckResult.PASS, CheckResult.FAIL, CheckResult.NOT_APPLICABLE


def fence_waits(evidence: Evidence) -> Finding:
    """After the fence nothing is left to wait for, and twice the work takes longer.

    A clock that is stopped while work is still queued reads the time of issuing it. After each
    window's fence an updated parameter is read, twice: what the first read takes beyond the second
    is work the fence did not wait for. The median over the windows must stay under 1 % of a window.
    As a second witness, on a quiet machine, twice the work must not take about the same time.
    """
    if not evidence.residual_s:
        return _FAIL, "no residual was read after any window"
    residual = statistics.median(evidence.residual_s)
    window = statistics.median(evidence.window_s)
    limit = max(_RESIDUAL_SHARE * window, _RESIDUAL_FLOOR_S)
    text = (
        f"median residual {residual * 1e3:.3f} ms after windows of {window * 1e3:.1f} ms "
        f"(limit {limit * 1e3:.3f} ms)"
    )
    sees_work = True
    if evidence.doubling_ratio is not None:
        sees_work = evidence.doubling_ratio >= _LEAST_DOUBLING or not evidence.quiet
        text += f"; twice the work takes {evidence.doubling_ratio:.2f} times as long"
    return (_PASS if residual <= limit and sees_work else _FAIL), text


def no_compile_in_window(evidence: Evidence) -> Finding:
    """No graph was compiled inside a window that counts.

    Compilation takes as long as hundreds of steps. A window in which the compile counter moved is
    voided and repeated; if compilations never stop, the launch has no steady state to report.
    """
    text = f"{evidence.voided_windows} voided, {len(evidence.window_s)} clean"
    if evidence.windows_exhausted:
        return _FAIL, f"compilations did not stop: {text}"
    return _PASS, text


def steady_state(evidence: Evidence) -> Finding:
    """The warm-up ended because the speed had settled, not because its time was up."""
    return (_PASS if evidence.steady else _FAIL), evidence.steady_reason


def executions_counted(evidence: Evidence) -> Finding:
    """The device executed as many graphs as the settings imply.

    Fewer executions than expected means that work was merged, skipped or not yet run; more means
    that graphs were cut where nobody asked.
    """
    if evidence.executions is None:
        return _NA, "the device executes operators, not graphs"
    if evidence.knobs.compile != "none":
        return _NA, "torch.compile cuts forward, backward and update into graphs of its own"
    expected = evidence.expected_executions
    text = f"{evidence.executions} executions, expected {expected}"
    return (_PASS if evidence.executions == expected else _FAIL), text


def no_fallbacks(evidence: Evidence) -> Finding:
    """No operator ran on the host in place of the device."""
    if evidence.executions is None:
        return _NA, "the device has no other device to fall back on"
    if evidence.fallbacks:
        found = ", ".join(f"{name} x{count}" for name, count in sorted(evidence.fallbacks.items()))
        return _FAIL, f"operators that ran on the host: {found}"
    return _PASS, "no operator ran on the host"


def parameters_moved(evidence: Evidence) -> Finding:
    """Training changed the weights.

    An optimizer that is never called, or frozen parameters, make a fast step. At least half of the
    trainable tensors must differ from their first values. (Not all: in pure bfloat16 an update far
    smaller than its weight is rounded away, which the training health shows.)
    """
    if evidence.moved_share is None:
        return _NA, "inference trains nothing"
    text = f"{evidence.moved_share:.0%} of the trainable tensors moved"
    return (_PASS if evidence.moved_share >= _MOVED_SHARE else _FAIL), text


def updates_counted(evidence: Evidence) -> Finding:
    """The optimizer was called as often as the micro-batches imply, by its own count."""
    if evidence.updates is None:
        return _NA, "inference updates nothing"
    expected = evidence.micro_batches / evidence.knobs.gradient_accumulation
    text = f"{evidence.updates} updates, expected {expected:g}"
    return (_PASS if evidence.updates == expected else _FAIL), text


def loss_finite(evidence: Evidence) -> Finding:
    """First and last loss are numbers."""
    if evidence.loss_last is None or evidence.loss_first is None:
        return _NA, "no loss is computed"
    finite = math.isfinite(evidence.loss_first) and math.isfinite(evidence.loss_last)
    text = f"first {evidence.loss_first:.4g}, last {evidence.loss_last:.4g}"
    return (_PASS if finite else _FAIL), text


def batch_as_asked(evidence: Evidence) -> Finding:
    """Every batch that ran had the size that was asked for."""
    asked = evidence.knobs.batch_size
    sizes = ", ".join(str(size) for size in sorted(evidence.batch_sizes)) or "none"
    text = f"batch sizes seen: {sizes}; asked {asked}; {evidence.samples} samples"
    right = evidence.batch_sizes == {asked} and evidence.samples == asked * evidence.micro_batches
    return (_PASS if right else _FAIL), text


def as_asked(evidence: Evidence) -> Finding:
    """What ran is what was asked for: engine, world, precision, compilation, optimizer and more.

    Libraries substitute silently. Every setting that can be read back from what runs is compared.
    """
    wrong = [
        f"{name}: asked {wanted}, ran {evidence.actual.get(name)}"
        for name, wanted in evidence.asked.items()
        if evidence.actual.get(name) != wanted
    ]
    if wrong:
        return _FAIL, "; ".join(wrong)
    return _PASS, f"{len(evidence.asked)} settings read back: {', '.join(evidence.asked)}"


def collectives_real(evidence: Evidence) -> Finding:
    """The ranks form one world, and an all-reduce adds over them."""
    if evidence.knobs.processes == 1:
        return _NA, "one process"
    if evidence.collectives is None:
        return _FAIL, "several processes and no all-reduce probe"
    return _PASS, evidence.collectives


CHECKS: Sequence[Callable[[Evidence], Finding]] = (
    fence_waits,
    no_compile_in_window,
    steady_state,
    executions_counted,
    no_fallbacks,
    parameters_moved,
    updates_counted,
    loss_finite,
    batch_as_asked,
    as_asked,
    collectives_real,
)


def audit(evidence: Evidence) -> list[Check]:
    """Run every check over one rank's evidence, in a fixed order."""
    findings = []
    for check in CHECKS:
        result, text = check(evidence)
        findings.append(Check(name=check.__name__, result=result, evidence=text))
    return findings


def explain(name: str) -> str:
    """Return the explanation of a check: the paragraph a person reads.

    Raises:
        KeyError: no check has that name.
    """
    documented = {check.__name__: check.__doc__ or "" for check in CHECKS}
    return " ".join(documented[name].split())
