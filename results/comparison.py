"""Is B as fast as A? The ratio of their throughputs, its interval, and the verdict that follows.

There are two designs. *Paired*: launches of both sides took turns, so that a machine that drifts
slows both, and the ratio of each pair is free of it; only this design reaches a verdict.
*Sequential*: one side was measured after the other; the drift between them cannot be told from a
change, so the outcome is a suggestion and never confirms a regression.

Pure arithmetic on launch values. This module knows nothing of how a launch was timed, how pairs are
found, or how an answer is shown.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtr

from bench.results.statistics import CONFIDENCE, logarithms, t_quantile

POWER = 0.80
THRESHOLD_PCT = 2.0
"""A smaller change is of no practical matter, unless the user says otherwise. Unit: percent."""
FEWEST_PAIRS = 3
"""Two pairs have an interval of 12.7 standard errors; nothing is decided on that."""
TRIM_FROM = 7
"""From so many pairs on, the largest and the smallest ratios are trimmed."""
TRIM = 0.2
"""Share of the pairs that is trimmed at either end."""
TRIMMED_CONFIDENCE = 0.96
"""Asked of Yuen's interval so that it covers 95 %: for normal scatter and 7 to 30 pairs, intervals
asked to cover 95 % cover 94.1 % to 94.9 %, and those asked to cover 96 % cover 95.2 % to 95.9 %
(simulated; `tests/results/test_comparison.py` repeats it)."""


class ComparisonVerdict(enum.StrEnum):
    """What a paired comparison says about B against A (see `decide` for the exact rule)."""

    SAME = "SAME"
    FASTER = "FASTER"
    SLOWER = "SLOWER"
    AMBIGUOUS = "AMBIGUOUS"
    """The pairs scatter too much to tell."""
    INVALID = "INVALID"
    """The pairs cannot be relied on, whatever they say."""


class Suggestion(enum.StrEnum):
    """What a sequential comparison suggests about B against A (see `suggest`)."""

    LOOKS_SAME = "looks the same"
    LOOKS_FASTER = "looks faster"
    LOOKS_SLOWER = "looks slower"
    CANNOT_TELL = "cannot tell"
    """A change that matters may be there or not."""
    NO_INTERVAL = "no interval"
    """A side of one launch has no scatter to judge a difference by."""


@dataclass(frozen=True)
class Pair:
    """One launch of either side, in turns on the same machine. Unit: samples per second."""

    a: float
    b: float
    disturbed: bool = False
    """The noise monitor found that something else used the machine in one of the two."""

    @property
    def ratio(self) -> float:
        """B / A: below 1, B is slower."""
        return self.b / self.a


@dataclass(frozen=True)
class Ratio:
    """B / A with its 95 % interval; null bounds: too few values for one."""

    estimate: float
    low: float | None
    high: float | None
    degrees_of_freedom: float | None
    standard_error: float | None
    """Of the logarithm of the ratio."""
    method: Literal["t", "trimmed t", "Welch"]
    p: float | None = None
    """Of no difference at all, two-sided; given by the sequential design only."""

    def lies_within(self, bound: float) -> bool:
        """Return whether the whole interval lies within 1 / bound and bound."""
        return self._between(1 / bound, bound)

    def lies_below(self, bound: float) -> bool:
        """Return whether the interval excludes 1, and the estimate is below 1 / bound."""
        return self._between(0.0, 1.0) and self.high != 1 and self.estimate < 1 / bound

    def lies_above(self, bound: float) -> bool:
        """Return whether the interval excludes 1, and the estimate is above bound."""
        return self._between(1.0, math.inf) and self.low != 1 and self.estimate > bound

    def _between(self, least: float, most: float) -> bool:
        return (
            self.low is not None
            and self.high is not None
            and least <= self.low
            and self.high <= most
        )


@dataclass(frozen=True)
class Decision:
    """The verdict of a paired comparison, with what it rests on."""

    verdict: ComparisonVerdict
    reason: str
    """The verdict in words, with its figures."""
    ratio: Ratio | None
    """Null: there was no pair. It is given with INVALID too, for what it is worth."""
    pairs: int
    disturbed: int
    """Pairs in which something else used the machine."""
    threshold_pct: float
    detectable_pct: float | None
    """The smallest change that this run could have seen; null: no interval. Unit: percent."""


def welch(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Compare the launches of two runs that were not measured in turns.

    Welch's t test on the logarithms of the launch values: variances may differ, degrees of freedom
    are Welch's and Satterthwaite's.

    Args:
        a: Values of A's launches. Unit: samples per second.
        b: Values of B's launches, in the same unit.

    Raises:
        ValueError: a side has no value, or one that is not positive and finite.
    """
    logs_a, logs_b = logarithms(a), logarithms(b)
    shift = _mean(logs_b) - _mean(logs_a)
    if min(len(logs_a), len(logs_b)) < 2:  # noqa: PLR2004
        return Ratio(math.exp(shift), None, None, None, None, "Welch")
    parts = [(_squares(logs) / (len(logs) - 1) / len(logs), len(logs)) for logs in (logs_a, logs_b)]
    variance = math.fsum(part for part, _ in parts)
    spread = math.fsum(part**2 / (n - 1) for part, n in parts)
    # Where nothing scatters the quotient has no value, and any degrees of freedom give the same.
    freedom = variance**2 / spread if spread else float(len(logs_a) + len(logs_b) - 2)
    error = math.sqrt(variance)
    return _ratio(shift, error, freedom, "Welch", p=_p(shift, error, freedom))


def paired(ratios: Sequence[float]) -> Ratio:
    """Return the mean ratio of pairs, with the t interval on their logarithms.

    Below `TRIM_FROM` pairs this is the paired t interval: n - 1 degrees of freedom. From there on
    it is Yuen's for the 20 %-trimmed mean: of n logarithms the g = floor(n / 5) smallest and
    largest are set aside, the h = n - 2 g others are averaged, and the standard error is
    sqrt(SSD / (h (h - 1))), where SSD is the sum of squared deviations of the logarithms after
    those set aside were replaced by their nearest neighbours that stay (winsorised). It has h - 1
    degrees of freedom, and `TRIMMED_CONFIDENCE` in place of 95 %. One launch in which the machine
    hiccuped then neither shifts the mean nor stretches the interval much.

    Raises:
        ValueError: no ratio, or one that is not positive and finite.
    """
    logs = sorted(logarithms(ratios))
    if len(logs) < 2:  # noqa: PLR2004
        return Ratio(math.exp(logs[0]), None, None, None, None, "t")
    cut = int(len(logs) * TRIM) if len(logs) >= TRIM_FROM else 0
    kept = logs[cut : len(logs) - cut]
    winsorised = [min(max(x, kept[0]), kept[-1]) for x in logs]
    error = math.sqrt(_squares(winsorised) / (len(kept) * (len(kept) - 1)))
    if cut:
        return _ratio(_mean(kept), error, len(kept) - 1, "trimmed t", TRIMMED_CONFIDENCE)
    return _ratio(_mean(kept), error, len(kept) - 1, "t")


def decide(
    pairs: Sequence[Pair],
    *,
    threshold_pct: float = THRESHOLD_PCT,
    obstacle: str | None = None,
) -> Decision:
    """Return the verdict about B against A.

    With the ratio B / A of `paired`, its 95 % interval [low, high] and the threshold of p percent,
    the first of these that holds:

    1. INVALID: there is an `obstacle`; or there are fewer than `FEWEST_PAIRS` pairs; or something
       else used the machine in more than half of them.
    2. SAME: the whole interval lies within 1 / (1 + p) and 1 + p. A change that matters is excluded
       with 97.5 % confidence in either direction, even if a small one was found.
    3. SLOWER: the interval excludes 1 (high < 1), and the estimate lies below 1 / (1 + p).
       FASTER: low > 1, and the estimate lies above 1 + p.
    4. AMBIGUOUS: everything else. Either B may be the same or not, or there is a change that may or
       may not matter.

    So each verdict can be read off the interval and the threshold that are printed beside it. If A
    and B are the same, FASTER and SLOWER together come out in at most 5 % of runs, and in far fewer
    where the interval is narrower than the threshold. If B differs by exactly p or more, SAME comes
    out in at most 2.5 %.

    The smallest change that the run could have seen is the one for which the estimate passes both
    hurdles of rule 3 in 80 % of runs with such a scatter: max(w, log(1 + p)) + t(0.8) e, where w is
    the interval's half-width and e the standard error, both on logarithms.

    Args:
        pairs: In any order.
        threshold_pct: The practical threshold. Unit: percent.
        obstacle: Why the pairs cannot be relied on, whatever they say; null: nothing is known.

    Raises:
        ValueError: the threshold is not positive, or a value is not positive and finite.
    """
    if not threshold_pct > 0:
        raise ValueError(f"the threshold must be positive, not {threshold_pct} %")
    ratio = paired([pair.ratio for pair in pairs]) if pairs else None
    disturbed = sum(pair.disturbed for pair in pairs)
    invalid = obstacle or _too_little(len(pairs), disturbed)
    if invalid is not None or ratio is None:
        verdict, reason = ComparisonVerdict.INVALID, invalid or ""
    else:
        verdict, reason = _verdict(ratio, threshold_pct)
    return Decision(
        verdict=verdict,
        reason=reason,
        ratio=ratio,
        pairs=len(pairs),
        disturbed=disturbed,
        threshold_pct=threshold_pct,
        detectable_pct=None if ratio is None else detectable_pct(ratio, threshold_pct),
    )


def suggest(ratio: Ratio, threshold_pct: float = THRESHOLD_PCT) -> Suggestion:
    """Return what a sequential comparison suggests.

    By rules 2 to 4 of `decide`. It is no verdict: where the machine drifts by 1 % from launch to
    launch, two runs of the same thing "differ" in 40 % to 60 % of cases.
    """
    bound = 1 + threshold_pct / 100
    if ratio.low is None:
        return Suggestion.NO_INTERVAL
    if ratio.lies_within(bound):
        return Suggestion.LOOKS_SAME
    if ratio.lies_below(bound):
        return Suggestion.LOOKS_SLOWER
    if ratio.lies_above(bound):
        return Suggestion.LOOKS_FASTER
    return Suggestion.CANNOT_TELL


def _too_little(pairs: int, disturbed: int) -> str | None:
    """Return why so many pairs cannot carry a verdict; null: they can."""
    if pairs < FEWEST_PAIRS:
        return f"{pairs} of at least {FEWEST_PAIRS} pairs were measured"
    if 2 * disturbed > pairs:
        return (
            f"something else used the machine in {disturbed} of {pairs} pairs: stop it, or keep it "
            "off these CPUs, and run again"
        )
    return None


def _verdict(ratio: Ratio, threshold_pct: float) -> tuple[ComparisonVerdict, str]:
    """Return what the interval says, and the rule by which it does."""
    bound = 1 + threshold_pct / 100
    if ratio.lies_within(bound):
        return ComparisonVerdict.SAME, (
            f"the whole interval lies within {threshold_pct:g} % of no change"
        )
    beyond = f"the interval excludes no change, and the estimate is beyond {threshold_pct:g} %"
    if ratio.lies_below(bound):
        return ComparisonVerdict.SLOWER, beyond
    if ratio.lies_above(bound):
        return ComparisonVerdict.FASTER, beyond
    if not (ratio.lies_below(1) or ratio.lies_above(1)):
        return ComparisonVerdict.AMBIGUOUS, (
            f"no change and one beyond {threshold_pct:g} % both lie in the interval: the pairs "
            "scatter too much. Raise --pairs or --budget, or quieten the machine"
        )
    return ComparisonVerdict.AMBIGUOUS, (
        f"there is a change, and whether it is beyond {threshold_pct:g} % is open: raise --pairs "
        "or --budget, or set --threshold to what matters to you"
    )


def detectable_pct(ratio: Ratio, threshold_pct: float) -> float | None:
    """Return the smallest change that such a comparison could have seen, as `decide` says.

    Null: it has no interval. Unit: percent.
    """
    if ratio.high is None or ratio.standard_error is None or ratio.degrees_of_freedom is None:
        return None
    significant = math.log(ratio.high / ratio.estimate)
    margin = t_quantile(ratio.degrees_of_freedom, POWER) * ratio.standard_error
    return 100 * math.expm1(max(significant, math.log1p(threshold_pct / 100)) + margin)


def _ratio(
    shift: float,
    error: float,
    freedom: float,
    method: Literal["t", "trimmed t", "Welch"],
    confidence: float = CONFIDENCE,
    p: float | None = None,
) -> Ratio:
    half = t_quantile(freedom, (1 + confidence) / 2) * error
    return Ratio(
        estimate=math.exp(shift),
        low=math.exp(shift - half),
        high=math.exp(shift + half),
        degrees_of_freedom=freedom,
        standard_error=error,
        method=method,
        p=p,
    )


def _p(shift: float, error: float, freedom: float) -> float:
    if error == 0:
        return 1.0 if shift == 0 else 0.0
    return 2 * float(stdtr(freedom, -abs(shift) / error))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _squares(values: Sequence[float]) -> float:
    """Return the sum of squared deviations from the mean."""
    centre = _mean(values)
    return math.fsum((value - centre) ** 2 for value in values)
