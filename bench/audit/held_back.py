"""Whether a device ran slower than it can while windows were measured; torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from bench.results.record import Clocks

FALL = 0.10
"""A speed this far below its usual best counts as low: turbo clocks wander by a few per cent ..."""
SHARE = 0.20
"""... and so many windows must be low, at least two: one may end in a rest."""


def held_back(
    clocks: Clocks | None, clock_mhz: Sequence[float], calculation_us: Sequence[float] = ()
) -> list[str]:
    """Return why the device counts as slowed, with what helps; empty: not, or nobody can tell.

    Args:
        clocks: What the device told over all windows.
        clock_mhz: After each window.
        calculation_us: What a fixed calculation took on the device after each window.
    """
    reasons = []
    if clocks is not None and clocks.throttled:
        reasons.append(f"{', '.join(clocks.throttled)}: {_COOL}")
    if clock_mhz and (low := _low(clock_mhz)):
        reasons.append(
            f"the clock fell from {_usual(clock_mhz):.0f} to {min(low):.0f} MHz, below "
            f"{1 - FALL:.0%} of that after {len(low)} of {len(clock_mhz)} windows: {_COOL}"
        )
    paces = [1 / took for took in calculation_us]
    if paces and (low := _low(paces)):
        reasons.append(
            f"a fixed calculation that took {1 / _usual(paces):.0f} us at the usual speed took up "
            f"to {1 / min(low):.0f} us, over 11 % longer after {len(low)} of {len(paces)} windows: "
            "something that this machine does not show slows its processors, as another virtual "
            "machine on the same core does; use a dedicated host, or measure when it is quieter"
        )
    return reasons


_FEW = 4
"""Below so many readings a quartile is the middle one, and two of three could never be low."""
_COOL = "cool the device, or fix its clock below what it can hold"


def _usual(speeds: Sequence[float]) -> float:
    if len(speeds) < _FEW:
        return max(speeds)
    # The upper quartile: one reading of a short boost must not make all others low.
    return sorted(speeds)[(3 * (len(speeds) - 1)) // 4]


def _low(speeds: Sequence[float]) -> list[float]:
    """Return the low ones, where there are enough of them to count."""
    low = [speed for speed in speeds if speed < (1 - FALL) * _usual(speeds)]
    return low if len(low) >= max(2, SHARE * len(speeds)) else []
