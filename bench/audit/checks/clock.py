"""Does the clock see the work, and nothing but the work?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, PASS, Finding

_RESIDUAL_SHARE = 0.01
_RESIDUAL_FLOOR_S = 0.0005
"""Two reads of one small tensor differ by this much on a busy host, whatever the fence did."""
_LATE_SHARE = 0.25
_LATE_BY_CHANCE = 1
_LEAST_DOUBLING = 1.25
"""Far below 2, since a busy machine bends the ratio of two short blocks; a blind clock gives 1."""


def fence_waits(evidence: Evidence) -> Finding:
    """After the fence nothing is left to wait for, and twice the work takes longer.

    A clock that is stopped while work is still queued reads the time of issuing it. After each
    window's fence an updated parameter is read, twice (where parameters are kept on the host, the
    last loss): what the first read takes beyond the second is work the fence did not wait for.
    Where the machine's counters show that nobody disturbed it, the median over the windows must
    stay under 1 % of a window, and two windows above it, where they are a quarter of all or more,
    are too many. Elsewhere anybody may have delayed a read, and the lower quartile is judged: what
    a fence leaves behind, it leaves in nearly every window. As a second witness, twice the work
    must not take about the same time.
    """
    if not evidence.residual_s:
        return FAIL, "no residual was read after any window"
    seen_quiet = evidence.quiet and evidence.noise.co_tenant_share is not None
    residual, name = _typical(evidence.residual_s, seen_quiet)
    window = statistics.median(evidence.window_s)
    limit = max(_RESIDUAL_SHARE * window, _RESIDUAL_FLOOR_S)
    text = (
        f"{name} residual {residual * 1e3:.3f} ms after windows of {window * 1e3:.1f} ms "
        f"(limit {limit * 1e3:.3f} ms)"
    )
    late = sum(one > limit for one in evidence.residual_s)
    often = late >= max(_LATE_BY_CHANCE + 1, _LATE_SHARE * len(evidence.residual_s))
    if late and residual <= limit:
        text += f"; above it in {late} of {len(evidence.residual_s)}"
    waits = residual <= limit and not (often and seen_quiet)
    sees_work = True
    ratio = evidence.diagnostics.doubling_ratio if evidence.diagnostics else None
    if ratio is not None:
        sees_work = ratio >= _LEAST_DOUBLING or not evidence.quiet
        text += f"; twice the work takes {ratio:.2f} times as long"
    return (PASS if waits and sees_work else FAIL), text


def _typical(residual_s: Sequence[float], seen_quiet: bool) -> tuple[float, str]:
    """Return the residual that is judged, in seconds, and what it is called."""
    if seen_quiet:
        return statistics.median(residual_s), "median"
    return sorted(residual_s)[len(residual_s) // 4], "lower quartile of the"


def no_compile_in_window(evidence: Evidence) -> Finding:
    """No graph was compiled inside a window that counts.

    Compilation takes as long as hundreds of steps. A window in which the compile counter moved is
    voided and repeated; if compilations never stop, the launch has no steady state to report.
    """
    text = f"{evidence.voided_windows} voided, {len(evidence.window_s)} clean"
    if evidence.windows_exhausted:
        return FAIL, f"compilations did not stop: {text}"
    return PASS, text


def steady_state(evidence: Evidence) -> Finding:
    """The warm-up ended because the speed had settled, not because its time was up."""
    return (PASS if evidence.steady else FAIL), evidence.steady_reason
