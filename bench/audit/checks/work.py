"""Is the work that ran the work that was asked for?"""

from __future__ import annotations

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding


def batch_as_asked(evidence: Evidence) -> Finding:
    """Every batch that ran had the size that was asked for."""
    asked = evidence.knobs.batch_size
    sizes = ", ".join(str(size) for size in sorted(evidence.batch_sizes)) or "none"
    text = f"batch sizes seen: {sizes}; asked {asked}; {evidence.samples} samples"
    right = evidence.batch_sizes == {asked} and evidence.samples == asked * evidence.micro_batches
    return (PASS if right else FAIL), text


def as_asked(evidence: Evidence) -> Finding:
    """What ran is what was asked for: engine, world, precision, compilation, optimizer and more.

    Libraries substitute silently. Every setting that can be read back from what runs is compared.
    """
    wrong = [
        f"{name}: asked {wanted}, ran {evidence.actual.get(name)}"
        for name, wanted in evidence.asked.items()
        if evidence.actual.get(name) != wanted
    ]
    if wrong:
        return FAIL, "; ".join(wrong)
    return PASS, f"{len(evidence.asked)} settings read back: {', '.join(evidence.asked)}"


def collectives_real(evidence: Evidence) -> Finding:
    """The ranks form one world, and an all-reduce adds over them."""
    if evidence.knobs.processes == 1:
        return NA, "one process"
    if evidence.collectives is None:
        return FAIL, "several processes and no all-reduce probe"
    return PASS, evidence.collectives
