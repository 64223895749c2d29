"""What the exchange between ranks adds to a step: the same steps with it and without, in turns.

A part of the diagnostic pass, which enters no throughput. It must not know how ranks exchange.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

from bench.measure.alignment import Alignment
from bench.measure.target import ALONE, WALL_CLOCK, Clock, Peers, Target, timed_advance

PAIRS = 3


class Unexchanged(NamedTuple):
    """Blocks of the same steps with the exchange between ranks and without, in turns."""

    shares: list[float]
    """Of each pair: the time that the exchange adds / the time with it, on the slowest rank."""
    own_s: float
    """Median of this rank's own blocks without it. Unit: seconds."""


def unexchanged(
    target: Target,
    alignment: Alignment,
    periods: int,
    exchange: Callable[[bool], None],
    budget_s: float,
    *,
    clock: Clock = WALL_CLOCK,
    peers: Peers = ALONE,
) -> Unexchanged | None:
    """Time the same steps with the exchange between ranks and without, in blocks that take turns.

    What an exchange takes while the rank goes on computing adds nothing, and is no part of it. The
    ranks begin each block together; without the exchange none of them waits for another inside.

    Args:
        target: A warm workload at a window edge.
        alignment: The rhythm of the case.
        periods: Length of all blocks of a kind together.
        exchange: Called with whether the ranks exchange in the next steps.
        budget_s: No further pair is begun after that time; at least one is timed. Unit: seconds.
        clock: Where the time is read.
        peers: The other ranks.

    Returns:
        Null: a graph was compiled in every pair.
    """
    micro_batches = math.ceil(periods / PAIRS) * alignment.period
    shares: list[float] = []
    own_s: list[float] = []
    begin = clock.now()
    for _ in range(2 * PAIRS):
        if len(shares) == PAIRS or (shares and peers.most(clock.now() - begin) >= budget_s):
            break
        compiles = target.compiles()
        seconds: dict[bool, float] = {}
        for wanted in (True, False):
            exchange(wanted)
            # The first steps after a change find the memory as the others have left it.
            target.advance(alignment.period)
            target.fence()
            peers.barrier()
            seconds[wanted] = timed_advance(target, micro_batches, clock)
        slowest = {wanted: peers.most(own) for wanted, own in seconds.items()}
        if not peers.any(target.compiles() > compiles):
            shares.append(1 - slowest[False] / slowest[True])
            own_s.append(seconds[False])
    exchange(True)
    return Unexchanged(shares, statistics.median(own_s)) if shares else None
