"""Whether a run still trains: what the health pass saw, and what follows from it.

Arithmetic on the losses of two runs over one fixed batch, the case's own and its fp32 reference. It
knows nothing of how they were run.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from bench.results.record import Health
from bench.scenarios.schema import Strict

LEAST_FALL = 0.02
"""Share of its first loss by which the reference must fall before anything can be told.

bfloat16 rounds a number by up to 2**-8 of it, 0.4 %, so that two losses that are held in bfloat16
may be wrong by 0.8 % together. Where the reference falls by 2 %, that is less than half of its
fall: rounding alone never makes a case that learns as fp32 does look as if it did not."""
LEAST_SHARE = 0.5
"""Share of the reference's fall below which a case does not learn."""
FIRST_LOSS_FACTOR = 1.5
"""A first loss further than this from ln(classes), above or below, is worth a word."""
GRADIENT_FACTOR = 1.5
"""A first gradient whose norm is further than this from the reference's is worth a word.

Two ranks that add their gradients up, where they should take the mean, have twice the norm."""


class HealthRun(Strict):
    """What one run of the health pass saw: updates on one fixed batch."""

    losses: Annotated[list[float | None], Field(min_length=2)]
    """On that batch: before the first update, then after each. Null: not finite. Unit: nats."""
    gradient_norm: float | None = None
    """Of the first update, over all parameters; null: not finite, or no update was made."""
    nonfinite_gradients: int | None = None
    """Gradient elements that were NaN or infinite, over all updates; null: no update was made."""
    updates: int
    """That the optimizer really made before the last loss."""

    @model_validator(mode="after")
    def _losses_are_numbers(self) -> HealthRun:
        if not all(loss is None or math.isfinite(loss) for loss in self.losses):
            raise ValueError("a loss that is not finite is null")
        return self

    @property
    def steps(self) -> int:
        """Updates that were asked for."""
        return len(self.losses) - 1


def judge(
    own: HealthRun, reference: HealthRun | None, classes: int, no_reference: str | None = None
) -> Health:
    """Return what two runs over one batch say about the case's training.

    `learned_share` is (first loss - last loss) of the case / the same of the reference. It is given
    where the reference's loss fell by at least `LEAST_FALL` of its first loss.

    `learns` is decided by the first of these that holds:

    1. False: a loss or a gradient element is not finite, or the optimizer made fewer updates than
       it was asked for, or the norm of the first gradient is 0.
    2. Null: there is no reference, or one of its losses is not finite, or its loss fell by less
       than `LEAST_FALL` of the first loss.
    3. False: `learned_share` is below `LEAST_SHARE`.
    4. True.

    `reason` tells what made it False or null, and whether the first loss lies further than a
    factor `FIRST_LOSS_FACTOR` from ln(classes), or the norm of the first gradient further than
    `GRADIENT_FACTOR` from the reference's: an update rule that divides by the size of gradients, as
    AdamW does, learns as well from larger ones.

    Args:
        own: The case's.
        reference: The same work in fp32, from the same weights on the same batch; null: none.
        classes: Number of labels.
        no_reference: Why there is none.
    """
    first, last = own.losses[0], own.losses[-1]
    share = _learned_share(own, reference)
    faults, doubts = _faults(own), _doubts(reference, no_reference)
    if not faults and not doubts and share is not None and share < LEAST_SHARE:
        faults.append(_too_slow(own, reference, share))
    learns = False if faults else None if doubts else True
    reasons = [*(faults or doubts), *_first_loss(first, classes), *_first_gradient(own, reference)]
    reference_last = reference.losses[-1] if reference else None
    return Health(
        steps=own.steps,
        loss_first=first,
        loss_last=last,
        reference_loss_first=reference.losses[0] if reference else None,
        reference_loss_last=reference_last,
        loss_gap=None if last is None or reference_last is None else last - reference_last,
        learned_share=share,
        first_loss_expected=math.log(classes),
        gradient_norm=own.gradient_norm,
        nonfinite_gradients=own.nonfinite_gradients,
        learns=learns,
        reason="; ".join(reasons) or None,
    )


def unknown(steps: int, classes: int, reason: str) -> Health:
    """Return the health of a case whose pass has no result, with the reason."""
    return Health(steps=steps, first_loss_expected=math.log(classes), learns=None, reason=reason)


def _learned_share(own: HealthRun, reference: HealthRun | None) -> float | None:
    own_fall = _fall(own)
    reference_fall = None if reference is None else _clear_fall(reference)
    return None if own_fall is None or reference_fall is None else own_fall / reference_fall


def _fall(run: HealthRun) -> float | None:
    first, last = run.losses[0], run.losses[-1]
    return None if first is None or last is None else first - last


def _clear_fall(run: HealthRun) -> float | None:
    """Return the fall of a loss that fell by enough to compare with; null: it did not."""
    first, fall = run.losses[0], _fall(run)
    if first is None or fall is None or None in run.losses:
        return None
    return fall if first > 0 and fall >= LEAST_FALL * first else None


def _faults(own: HealthRun) -> list[str]:
    faults = []
    broken = [after for after, loss in enumerate(own.losses) if loss is None]
    if broken:
        faults.append(
            f"{len(broken)} of {len(own.losses)} losses are not finite, the first after "
            f"{_updates(broken[0])}"
        )
    if own.nonfinite_gradients:
        faults.append(f"gradient elements that are NaN or infinite: {own.nonfinite_gradients}")
    if own.updates < own.steps:
        faults.append(f"the optimizer made {own.updates} of {_updates(own.steps)}")
    if own.gradient_norm == 0:
        faults.append("the first gradient is 0 in every parameter")
    return faults


def _doubts(reference: HealthRun | None, no_reference: str | None) -> list[str]:
    if reference is None:
        return [no_reference or "there is no fp32 reference to compare with"]
    if None in reference.losses:
        return ["the fp32 reference's own loss is not finite"]
    if _clear_fall(reference) is None:
        return [
            f"the fp32 reference's own loss went from {_span(reference)} in "
            f"{_updates(reference.steps)}, and it takes a fall by {LEAST_FALL:.0%} to compare "
            "with: raise measure.health_steps"
        ]
    return []


def _too_slow(own: HealthRun, reference: HealthRun | None, share: float) -> str:
    compared = f", fp32's from {_span(reference)}" if reference else ""
    return (
        f"its loss on one batch went from {_span(own)} in {_updates(own.steps)}{compared}: "
        f"{share:.0%} of what fp32 learns"
    )


def _first_loss(first: float | None, classes: int) -> list[str]:
    expected = math.log(classes)
    if first is None or expected / FIRST_LOSS_FACTOR <= first <= expected * FIRST_LOSS_FACTOR:
        return []
    return [
        f"the first loss is {first:.4g}, where a model that knows nothing has ln({classes}) = "
        f"{expected:.4g}"
    ]


def _first_gradient(own: HealthRun, reference: HealthRun | None) -> list[str]:
    norm, expected = own.gradient_norm, None if reference is None else reference.gradient_norm
    if not norm or not expected:
        return []
    if expected / GRADIENT_FACTOR <= norm <= expected * GRADIENT_FACTOR:
        return []
    return [
        f"the norm of the first gradient is {norm:.4g}, and {expected:.4g} in fp32: something "
        "scales or clips gradients"
    ]


def _updates(count: int) -> str:
    return f"{count} update{'' if count == 1 else 's'}"


def _span(run: HealthRun) -> str:
    return f"{run.losses[0]:.4g} to {run.losses[-1]:.4g}"
