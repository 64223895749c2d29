"""Was there one speed?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding
from bench.results.series import best_split, grouped, line, split
from bench.results.truncation import mser

FEWEST = 8
"""With fewer values, noise that lasts for two windows looks like a step."""
MOST = 19
"""More windows are looked at as means of neighbours: noise that lasts averages out in them."""
CHANGE = 0.03
"""Smaller changes of speed are left alone, however certain."""
_MSER_BATCH = 5
_MSER_WINDOWS = 4 * _MSER_BATCH
_LEAST_PART = 3


def windows_steady(evidence: Evidence) -> Finding:
    """The speed neither stepped nor drifted while the windows ran.

    A device that throttles half way, or a cache that slowly fills, has no one speed that a number
    could tell. The times of the windows are looked at in three ways: the best split into a faster
    and a slower part, a straight line, and the two halves where the truncation rule (MSER-5) finds
    no settled part. It fails when one of them accounts for nearly all of the scatter and changes
    the time by more than 3 %; a burst of noise does not. On a machine that was disturbed nothing is
    concluded. By simulation, noise of 5 % that no monitor saw fails in under 0.1 % of launches when
    neighbouring windows are correlated by 0.5, in 0.3 % when by 0.7. In ten windows that scatter by
    0.4 %, a step of 5 % is seen in 99 % of launches and a drift of 5 % in 75 %.
    """
    count = len(evidence.window_s)
    if evidence.in_turns:
        return NA, (
            "the windows took turns with those of another launch: a change of speed that both met "
            "cancels in their ratio"
        )
    if count < FEWEST:
        return NA, f"{count} windows, at least {FEWEST} are needed"
    halves = _change_of_halves(evidence.window_s)
    if not evidence.quiet:
        return NA, (
            f"the second half of {count} windows took {_longer(halves)} than the first; the "
            "machine was disturbed, which may be why"
        )
    patterns = _patterns(evidence.window_s)
    if patterns:
        return FAIL, "; ".join(patterns)
    return PASS, (
        f"the second half of {count} windows took {_longer(halves)} than the first; no step and no "
        f"drift stands out of a scatter of {_scatter(evidence.window_s):.1%}"
    )


def _patterns(window_s: Sequence[float]) -> list[str]:
    """Return the changes of speed that stand out, in words."""
    values = grouped(window_s, MOST)
    needed = needed_share(len(values))
    mean = statistics.fmean(values)
    size = len(window_s) // len(values)
    found = []
    step = best_split(values, max(_LEAST_PART, len(values) // 5))
    if step.explained >= needed and abs(step.change) >= CHANGE:
        at = len(window_s) - size * (len(values) - step.at)
        found.append(
            f"from window {at + 1} of {len(window_s)} on they took {_longer(step.change)} than "
            f"before (accounts for {step.explained:.0%} of the scatter, limit {needed:.0%})"
        )
    drift = line(values)
    change = drift.slope * (len(values) - 1) / mean
    if drift.explained >= needed and abs(change) >= CHANGE:
        found.append(
            f"their time drifted by {change:+.1%} from the first to the last of {len(window_s)} "
            f"(a line accounts for {drift.explained:.0%} of the scatter, limit {needed:.0%})"
        )
    if not found and len(window_s) >= _MSER_WINDOWS and mser(window_s, _MSER_BATCH) is None:
        halves = split(values, len(values) // 2)
        weaker = needed - 0.08
        if halves.explained >= weaker and abs(halves.change) >= CHANGE:
            found.append(
                f"MSER-5 finds no settled part, and the second half took {_longer(halves.change)} "
                f"than the first (accounts for {halves.explained:.0%} of the scatter, limit "
                f"{weaker:.0%})"
            )
    return found


def needed_share(values: int) -> float:
    """Return the share of the scatter that a pattern must account for, of so many values.

    What autocorrelated noise (AR(1), 0.7) reaches in one of a thousand series: short ones look like
    a pattern more easily.

    Args:
        values: From `FEWEST` to `MOST`.
    """
    return 0.97 - 0.0085 * (values - FEWEST)


def _longer(change: float) -> str:
    return f"{change:.1%} longer" if change >= 0 else f"{-change:.1%} less"


def _change_of_halves(window_s: Sequence[float]) -> float:
    return split(window_s, len(window_s) // 2).change


def _scatter(window_s: Sequence[float]) -> float:
    return statistics.stdev(window_s) / statistics.fmean(window_s)
