"""The questions that a record's page answers in sentences, after its verdict.

Every function reads one record and returns text. This module knows no layout, and takes its figures
from `results`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.results.naive import naive_reading
from bench.results.record import Health, Outcome, Record
from bench.results.wording import figure, one_line, signed

_MANY = 2.0
"""From this factor on a difference is told as a factor, below it in per cent."""
_CLEAR = 1.25
"""Factor between two passes that a busy machine alone does not make."""


@dataclass(frozen=True)
class Answer:
    """The answer to a question, and what is to be said beside it."""

    short: str
    """One word, or a few."""
    sentences: tuple[str, ...] = ()
    named: tuple[tuple[str, str], ...] = ()
    """What is easier to find under a name of its own."""

    @property
    def text(self) -> str:
        """Return the answer as one paragraph, without what is named."""
        return " ".join((f"{self.short}.", *self.sentences))


def _steps(count: int) -> str:
    return "step" if count == 1 else f"{count} steps"


def naive(record: Record) -> Answer:
    """Return whether the clock of most scripts would have told something else, and why."""
    reading = naive_reading(record.launches)
    if reading is None:
        return Answer(
            "Unknown",
            ("The record holds no reading of such a clock (no diagnostic pass read it).",),
        )
    says = (
        "A clock read after every step, which waits for nothing, says "
        f"{figure(reading.samples_per_s)} samples a second: {_beside(reading.ratio)} the "
        f"{figure(reading.true_samples_per_s)} of the same {_steps(reading.steps)} until the "
        "device had finished."
    )
    if not reading.misleads:
        return Answer("No", (says,))
    sentences = [
        says,
        "It stops while work is still queued: to it a step is over once it has been issued. What "
        "is queued at the end weighs less the more steps it is read over.",
    ]
    if reading.step_ms_median is not None:
        sentences.append(
            f"Its median step takes {figure(reading.step_ms_median)} ms; a step takes "
            f"{figure(reading.true_step_ms)} ms."
        )
    together = record.requested.knobs.loader.batches_per_execution
    if together > 1:
        sentences.append(
            f"{together} micro-batches make one graph here: {together - 1} of them are only "
            "recorded, and the work of all starts with the last."
        )
    return Answer("Yes", tuple(sentences))


def training(record: Record) -> Answer:
    """Return whether the case still learns, with the losses that tell."""
    knobs, health = record.requested.knobs, record.health
    if knobs.task != "train":
        return Answer("Does not apply", ("Inference trains nothing.",))
    if health is None:
        switched_off = not record.requested.measure.health and record.outcome is Outcome.OK
        why = "The health pass was switched off" if switched_off else "The record does not tell"
        return Answer("Unknown", (f"{why}.",))
    told = [*_losses(health), *_gradients(health)]
    # The reason of a No holds the losses already.
    if health.learns is None:
        return Answer("Unknown", (sentence(health.reason or "no reason is given"), *told))
    if health.learns:
        doubt = [sentence(health.reason)] if health.reason else []
        return Answer("Yes", (*told, *doubt))
    return Answer("No", (sentence(health.reason or "it does not learn"), *_gradients(health)))


def ended(text: str) -> str:
    """Return a text from a record in one line that ends as a sentence does."""
    clean = one_line(text)
    return clean if clean.endswith((".", "!", "?")) else f"{clean}."


def sentence(text: str) -> str:
    """Return a text from a record as a sentence."""
    whole = ended(text)
    # A name (`fence_waits:`) keeps its spelling.
    is_word = whole.split(maxsplit=1)[0].rstrip(",;").isalpha()
    return whole[:1].upper() + whole[1:] if is_word else whole


def _losses(health: Health) -> Iterator[str]:
    if health.loss_first is not None and health.loss_last is not None:
        fell = (
            f"In {health.steps} updates on one fixed batch its loss went from "
            f"{figure(health.loss_first)} to {figure(health.loss_last)}"
        )
        if health.reference_loss_first is not None and health.reference_loss_last is not None:
            fell += (
                f", that of fp32 from {figure(health.reference_loss_first)} to "
                f"{figure(health.reference_loss_last)}"
            )
        gap = "" if health.loss_gap is None else f" (gap {signed(health.loss_gap)} nats)"
        yield f"{fell}{gap}."
    if health.learned_share is not None:
        yield f"It learned {health.learned_share:.0%} of what fp32 learned."


def _gradients(health: Health) -> Iterator[str]:
    parts = []
    if health.gradient_norm is not None:
        parts.append(f"the first gradient has the norm {figure(health.gradient_norm)}")
    if health.nonfinite_gradients is not None:
        parts.append(f"{health.nonfinite_gradients or 'no'} gradient elements were NaN or infinite")
    if health.first_loss_expected is not None and health.loss_first is not None:
        parts.append(
            f"a model that knows nothing has a loss of {figure(health.first_loss_expected)}"
        )
    if parts:
        yield sentence("; ".join(parts))


def _beside(ratio: float) -> str:
    if ratio >= _MANY:
        return f"{ratio:.1f} times"
    return f"{100 * abs(ratio - 1):.1f} % {'above' if ratio >= 1 else 'below'}"
