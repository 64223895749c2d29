"""What a comparison of two records says, as rows for people and programs.

This module knows the shape of an answer: not how it is reached (`matching`, `comparison`), nor how
it is shown.
"""

from __future__ import annotations

from typing import Literal

from bench.results.statistics import CONFIDENCE
from bench.scenarios.schema import Strict


class Side(Strict):
    """One of the two records, in the figures that a reader of the comparison needs."""

    scenario: str
    case: str
    backend: str
    device: str | None
    simulated: bool = False
    """The device was pretended: no figure is that of such a device."""
    processes: int
    outcome: str
    verdict: str | None
    samples_per_s: float | None
    launches: int
    learns: bool | None = None
    """Whether it still trains; null: unknown, not looked at, or it does not train at all."""
    learns_reason: str | None = None
    """Why it does not, or why that is unknown."""
    created: str
    record: str
    """Path of the record's file, as it can be printed."""


class PairRow(Strict):
    """Two launches of one round. Unit: samples per second."""

    session: str
    round: int
    a_samples_per_s: float
    b_samples_per_s: float
    ratio: float
    """B / A: below 1, B was slower."""
    disturbed: bool
    """Something else used the machine during one of the two."""


class Comparison(Strict):
    """What two records say about each other; null is unknown or does not apply."""

    design: Literal["paired", "sequential"] | None
    """`paired`: launches took turns within rounds. `sequential`: one side after the other, which
    cannot confirm a regression. Null: not compared, see `reason`."""
    verdict: str | None
    """Paired: SAME, FASTER, SLOWER, AMBIGUOUS or INVALID. Sequential: a suggestion in words.
    Not compared: INVALID, or null where a side is not there or neither has a number."""
    reason: str
    ratio: float | None = None
    """B / A in samples/s: below 1, B is slower."""
    ratio_low: float | None = None
    ratio_high: float | None = None
    confidence: float = CONFIDENCE
    method: str | None = None
    degrees_of_freedom: float | None = None
    p: float | None = None
    """Of no difference at all; given by the sequential design only."""
    threshold_pct: float
    """What counts as a change that matters. Unit: percent."""
    detectable_pct: float | None = None
    """The smallest change that a comparison with this scatter would have found in 80 % of runs.
    Unit: percent."""
    disturbed: int | None = None
    """Pairs during which something else used the machine."""
    noisy: bool = False
    """One of the two rows is noisy."""
    differences: list[str] = []
    """What differs beside the result, as `name: A's value, B's value`."""
    a: Side | None = None
    b: Side | None = None
    pairs: list[PairRow] = []

    @property
    def breaks_training(self) -> bool:
        """Whether B does not learn and A is not known to be as bad: no speed makes up for it."""
        if self.a is None or self.b is None:
            return False
        return self.b.learns is False and self.a.learns is not False
