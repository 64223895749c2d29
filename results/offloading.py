"""What keeping weights or optimizer state off the device costs in speed, and saves there.

The row is held against the same case without: every other setting is the same. This module knows
records, and not how a figure is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.results.record import Outcome, Record
from bench.results.speedup import Siblings, Speedup, ratio_over, siblings_but_for


@dataclass(frozen=True)
class Offloading:
    """A row that offloads against the same without."""

    ratio: Speedup = field(default_factory=Speedup)
    against: str | None = None
    """The case that keeps everything on the device."""
    saved_bytes: int | None = None
    """Its peak memory - this one's; null: not known of both, or nothing can be saved."""


def offloading_of(record: Record, siblings: Siblings) -> Offloading:
    """Return what offloading costs and saves, over the same case of the session without it.

    Null, without a reason, where nothing is offloaded or there is no number.
    """
    if record.outcome is not Outcome.OK or record.requested.knobs.offloads is None:
        return Offloading()
    kept = [
        other
        for other in siblings_but_for(record, siblings, _is_about_offloading)
        if other.requested.knobs.offloads is None
    ]
    if not kept:
        reason = "the session has no row of the same settings that offloads nothing"
        return Offloading(Speedup(reason=reason))
    other = kept[0]
    name = f"the row without ({other.requested.case})"
    ratio = ratio_over(record, other, name)
    return Offloading(ratio, other.requested.case, _saved(record, other) if ratio.value else None)


def peak_memory(record: Record) -> int | None:
    """Return the most device memory of a rank over all launches; null: no launch tells."""
    known = [one.peak_memory_bytes for one in record.launches if one.peak_memory_bytes is not None]
    return max(known, default=None)


def _is_about_offloading(name: str) -> bool:
    return name.rpartition(".")[2].startswith(("offload", "nvme"))


def _saved(record: Record, other: Record) -> int | None:
    mine, theirs = peak_memory(record), peak_memory(other)
    if mine is None or theirs is None or not record.launches[0].actual.get("own_memory"):
        return None
    return theirs - mine
