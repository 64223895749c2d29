"""Whether a device ran slower than it can while windows were measured; torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results.record import Clocks

FALL = 0.10
"""A clock this far below its usual best counts as low: turbo clocks wander by a few per cent ..."""
SHARE = 0.20
"""... and so many windows must be low, at least two: one may end in a rest."""


def held_back(clocks: Clocks | None, clock_mhz: Sequence[float]) -> list[str]:
    """Return why the clock counts as not held; empty: it was, or nobody can tell.

    Args:
        clocks: What the device told over all windows.
        clock_mhz: After each window.
    """
    if clocks is None:
        return []
    reasons = list(clocks.throttled)
    if not clock_mhz:
        return reasons
    # The upper quartile: one reading of a short boost must not make all others low.
    usual = sorted(clock_mhz)[(3 * (len(clock_mhz) - 1)) // 4]
    low = [mhz for mhz in clock_mhz if mhz < (1 - FALL) * usual]
    if len(low) >= max(2, SHARE * len(clock_mhz)):
        reasons.append(
            f"the clock fell from {usual:.0f} to {min(low):.0f} MHz, below {1 - FALL:.0%} of that "
            f"after {len(low)} of {len(clock_mhz)} windows"
        )
    return reasons
