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


def clocks_held(evidence: Evidence) -> Finding:
    """Nothing slowed the device down while the windows ran.

    A device that gets too hot, or too much power, lowers its clock, and training slows down with
    it: the number is that of a warm room, not of the settings. The clock and the device's own
    reasons for lowering it are read after every window. Where the host's processors are the device,
    a calculation of fixed length is timed then as well: another virtual machine on the same core
    slows it down, and training with it, while every counter that this machine can read stays still.
    (It is not judged where our own loader workers or other ranks may share that core, nor where two
    launches take turns, which both are slowed.) The row is noisy when the device gave a reason, or
    when after a fifth of the windows it ran more than 10 % slower than usual.
    """
    clocks = evidence.clocks
    if reasons := evidence.held_back:
        return FAIL, "; ".join(reasons)
    told = []
    if clocks is not None and clocks.mhz_min is not None and clocks.mhz_max is not None:
        told.append(f"{clocks.mhz_min:.0f} to {clocks.mhz_max:.0f} MHz ({clocks.source})")
    elif clocks is not None and clocks.source is not None:
        told.append(f"no reason to slow down ({clocks.source})")
    if evidence.judged_us:
        took = evidence.judged_us
        told.append(f"a fixed calculation took {min(took):.0f} to {max(took):.0f} us")
    if not told:
        return NA, "the device tells neither its clock nor what slows it down"
    return PASS, "; ".join(told)
