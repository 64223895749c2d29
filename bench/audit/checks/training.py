"""Was a model trained?"""

from __future__ import annotations

import math

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding

_MOVED_SHARE = 0.5


def parameters_moved(evidence: Evidence) -> Finding:
    """Training changed the weights.

    An optimizer that is never called, or frozen parameters, make a fast step. At least half of the
    trainable tensors must differ from their first values. (Not all: in pure bfloat16 an update far
    smaller than its weight is rounded away, which the training health shows.)
    """
    if evidence.moved_share is None:
        return NA, "inference trains nothing"
    text = f"{evidence.moved_share:.0%} of the trainable tensors moved"
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
