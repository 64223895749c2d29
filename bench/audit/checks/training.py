"""Was a model trained?"""

from __future__ import annotations

import math

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding

_MOVED_SHARE = 0.5
_NAMED = 3


def parameters_moved(evidence: Evidence) -> Finding:
    """Training changed the weights.

    An optimizer that is never called, or frozen parameters, make a fast step. Every parameter that
    was trainable when the model was built must still be, and the optimizer must hold it. At least
    half of these tensors must differ from their first values. (Not all: in pure bfloat16 an update
    far smaller than its weight is rounded away, which the training health shows.)
    """
    if evidence.moved_share is None:
        return NA, "inference trains nothing"
    text = f"{evidence.moved_share:.0%} of the trainable tensors moved"
    if lost := evidence.untrained:
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        named = ", ".join(lost[:_NAMED])
        return FAIL, f"{text}; frozen after the build, or not in the optimizer: {named}{more}"
    return (PASS if evidence.moved_share >= _MOVED_SHARE else FAIL), text


def updates_counted(evidence: Evidence) -> Finding:
    """The optimizer was called as often as the micro-batches imply, by its own count."""
    if evidence.updates is None:
        return NA, "inference updates nothing"
    expected = evidence.micro_batches / evidence.knobs.gradient_accumulation
    text = f"{evidence.updates} updates, expected {expected:g}"
    return (PASS if evidence.updates == expected else FAIL), text


def loss_finite(evidence: Evidence) -> Finding:
    """First and last loss are numbers."""
    if evidence.loss_last is None or evidence.loss_first is None:
        return NA, "no loss is computed"
    finite = math.isfinite(evidence.loss_first) and math.isfinite(evidence.loss_last)
    text = f"first {evidence.loss_first:.4g}, last {evidence.loss_last:.4g}"
    return (PASS if finite else FAIL), text
