"""Times of single steps by the device's own clock, beside the host's: of the diagnostic pass.

Nothing waits for a step, so none is slowed by being timed. It must not know how a device keeps
time.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Protocol

from bench.measure.alignment import Alignment
from bench.measure.diagnose import percentiles
from bench.measure.target import ALONE, WALL_CLOCK, Clock, Peers, Target
from bench.results.record import DeviceSteps


class Marker(Protocol):
    """A device that keeps time: marks in the order of its work, and the time between two."""

    def mark(self) -> Any:
        """Note the moment at which all that was issued so far is done. Waits for nothing."""

    def between_s(self, earlier: Any, later: Any) -> float:
        """Return the time between two marks, after a fence. Unit: seconds."""


def of_block(
    target: Target,
    alignment: Alignment,
    periods: int,
    marker: Marker,
    *,
    clock: Clock = WALL_CLOCK,
    peers: Peers = ALONE,
) -> DeviceSteps:
    """Return the times of single steps by the device's clock, from marks between them.

    Nothing waits inside the block, so the steps follow one another as in a window. A step lasts
    from the end of the one before to its own end: what the device waited for the host is in it.

    Args:
        target: A warm workload at a window edge.
        alignment: The rhythm of the case.
        periods: Length of the block.
        marker: The device, which keeps time.
        clock: Where the host's time is read.
        peers: The other ranks.

    Raises:
        ValueError: `periods` is below 1.
    """
    if periods < 1:
        raise ValueError(f"periods={periods}: there is no step to time")
    target.fence()
    peers.barrier()
    begin = clock.now()
    marks = [marker.mark()]
    for _ in range(periods * alignment.steps_per_period):
        target.advance(alignment.gradient_accumulation)
        marks.append(marker.mark())
    target.fence()
    host_s = clock.now() - begin
    times = [marker.between_s(first, second) for first, second in itertools.pairwise(marks)]
    p50, p95, p99 = (None if p is None else 1e3 * p for p in percentiles(times))
    return DeviceSteps(
        steps=len(times), p50_ms=p50, p95_ms=p95, p99_ms=p99, sum_s=math.fsum(times), host_s=host_s
    )
