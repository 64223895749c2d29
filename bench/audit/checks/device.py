"""Did the device do what the settings imply?"""

from __future__ import annotations

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding


def executions_counted(evidence: Evidence) -> Finding:
    """The device executed as many graphs as the settings imply.

    Fewer executions than expected means that work was merged, skipped or not yet run; more means
    that graphs were cut where nobody asked.
    """
    if evidence.executions is None:
        return NA, "the device executes operators, not graphs"
    if evidence.knobs.compile != "none":
        return NA, "torch.compile cuts forward, backward and update into graphs of its own"
    expected = evidence.expected_executions
    text = f"{evidence.executions} executions, expected {expected}"
    return (PASS if evidence.executions == expected else FAIL), text


def no_fallbacks(evidence: Evidence) -> Finding:
    """No operator ran on the host in place of the device."""
    if evidence.fallbacks is None:
        return NA, "the device counts no operators that fall back on another"
    if evidence.fallbacks:
        found = ", ".join(f"{name} x{count}" for name, count in sorted(evidence.fallbacks.items()))
        return FAIL, f"operators that ran on the host: {found}"
    return PASS, "no operator ran on the host"
