"""Did training wait for its data?"""

from __future__ import annotations

import statistics

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding

WAITS = 0.05
"""Share of the time in the loader's next() above which the loop counts as waiting."""
GAP = 0.10
"""How much faster training on resident batches must be, when the loop waits too."""
LONE_GAP = 0.25
"""How much, in every block, when the loop does not wait: the twin is the only witness then."""

_UNSEEN = (
    " without letting it wait (its workers use the processors that train, or its copies the device)"
)


def loader_bound(evidence: Evidence) -> Finding:
    """Training was not held back by its data loader.

    A loader that is slower than the model is what a user should mend first, since the number is
    then the loader's and hardly changes with the settings of the device. Two witnesses are heard:
    the share of the time that the loop spends in the loader's next(), and how much faster the same
    step runs over batches that lie on the device already, in blocks that take turns with those of
    the loader. The second one decides. A device that
    executes whole graphs is waited for in next() too, so there the first one is not heard; and a
    loader may cost time without any waiting, when its workers use the processors that train, or its
    copies the device. A failure is a remark: the number is right.
    """
    witnesses = _witnesses(evidence)
    if isinstance(witnesses, str):
        return NA, witnesses
    share, gaps = witnesses
    gap = statistics.median(gaps)
    behind = evidence.executions is not None
    where = ", where this device is waited for too" if behind else ""
    text = (
        f"{share:.1%} of the time was spent in the loader's next(){where}; with batches that lie "
        f"on the device, training is {abs(gap):.0%} {'faster' if gap >= 0 else 'slower'}"
    )
    waits = share > WAITS and not behind
    if gap > GAP and min(gaps) > 0 and waits:
        return FAIL, f"{text}: the loader holds it back"
    if min(gaps) > LONE_GAP and evidence.quiet:
        return FAIL, f"{text}: the loader holds it back{'' if behind else _UNSEEN}"
    if gap > GAP:
        among = ", ".join(f"{one:+.0%}" for one in gaps)
        disturbed = min(gaps) > LONE_GAP
        why = "the machine was disturbed" if disturbed else "one block can be off by that much"
        return PASS, f"{text}, but {why} ({among})"
    if waits and share > 3 * WAITS:
        return PASS, (
            f"{text}: the two disagree. A device that works behind the host is busy while its "
            "host waits, and the loader costs nothing; on any other, the blocks were disturbed"
        )
    return PASS, text


def _witnesses(evidence: Evidence) -> tuple[float, list[float]] | str:
    """Return the share of waiting and the gaps to the twin, or why they are not both known."""
    found = evidence.diagnostics
    if found is None:
        return "the diagnostic pass did not run in this launch"
    share = found.loader_wait_share
    if evidence.knobs.data.source == "device" or share is None:
        return "there is no loader to wait for"
    if not found.device_twin_gaps:
        return (
            f"{share:.1%} of the time was spent in the loader's next(), and nothing tells how fast "
            "training is without a loader"
        )
    return share, found.device_twin_gaps
