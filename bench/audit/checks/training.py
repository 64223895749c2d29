"""Was a model trained?"""

from __future__ import annotations

import math

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding

_MOVED_SHARE = 0.5
_NAMED = 3
_SKIPPED_SHARE = 0.01


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
    """The optimizer was called as often as the micro-batches imply, by its own count.

    The loss scaling of fp16 skips an update whose gradients overflow, and tries a larger scale
    every 2000 updates. Samples of skipped updates trained nothing: up to 1 % of them are borne,
    beyond that their time would be sold as training.
    """
    if evidence.updates is None:
        return NA, "inference updates nothing"
    expected = evidence.micro_batches / evidence.knobs.gradient_accumulation
    text = f"{evidence.updates} updates, expected {expected:g}"
    skipped = evidence.skipped_updates or 0
    if evidence.skipped_updates is not None:
        text += f"; {skipped} skipped by the loss scaler"
    right = evidence.updates + skipped == expected and skipped <= _SKIPPED_SHARE * expected
    return (PASS if right else FAIL), text


def loss_finite(evidence: Evidence) -> Finding:
    """First and last loss are numbers."""
    if evidence.loss_last is None or evidence.loss_first is None:
        return NA, "no loss is computed"
    finite = math.isfinite(evidence.loss_first) and math.isfinite(evidence.loss_last)
    text = f"first {evidence.loss_first:.4g}, last {evidence.loss_last:.4g}"
    return (PASS if finite else FAIL), text
