"""Did the machine leave the measurement alone?"""

from __future__ import annotations

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding


def machine_quiet(evidence: Evidence) -> Finding:
    """Nobody else used the processors that this launch may use.

    Other processes, a hypervisor and a container's CPU quota take time from the training that is
    measured. The counters of the machine tell how much while the windows ran; more than a few per
    cent makes the row noisy, not wrong.
    """
    noise = evidence.noise
    if noise.reasons:
        return FAIL, "; ".join(noise.reasons)
    if noise.co_tenant_share is None:
        return NA, "the machine shows no such counters, or the windows were too short for them"
    return PASS, f"other processes used {noise.co_tenant_share:.1%} of the processors"
