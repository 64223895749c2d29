"""The worker's end of computing by turns: it says that it waits, and a byte tells it to go on.

The parent decides whose turn it is (`bench.run.turns`). It listens to rank 0, and tells every rank:
one that waited for rank 0 in a collective would run into the collective's own time limit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import Literal

from bench.backends import host
from bench.measure.target import Peers
from bench.measure.turns import UNDIVIDED, Undivided
from bench.worker.events import Events
from bench.worker.job import TURN_VARIABLE, Job


class Turn:
    """Waits for the parent's word.

    Args:
        events: Where waiting is announced.
        peers: The other ranks.
        descriptor: Where the word comes from, one byte for each rank.
        cpus: Where this launch computes from the first step on; null: anywhere.
    """

    def __init__(
        self, events: Events, peers: Peers, descriptor: int, cpus: Collection[int] | None = None
    ) -> None:
        self._events = events
        self._peers = peers
        self._descriptor = descriptor
        self._cpus = cpus

    def wait_to_begin(self) -> None:
        """Return when this launch may take its first step and warm up."""
        self._ask("warm_up")
        if self._cpus is not None:
            host.keep_on(self._cpus)

    def wait(self) -> bool:
        """Return when the next window may run.

        Raises:
            TurnsEnded: the parent has gone.
        """
        self._ask("window")
        return True

    def wait_for_the_end(self) -> None:
        """Return when both launches have all their windows, and this one may go on alone."""
        self._ask("end")

    def _ask(self, before: Literal["warm_up", "window", "end"]) -> None:
        # None says that it rests while another still computes, nor takes two bytes of one turn.
        self._peers.barrier()
        self._events.wait(before)
        used = time.process_time()
        if not os.read(self._descriptor, 1):
            raise TurnsEnded
        # Silence counts from here on, and not while the other side computed.
        self._events.tell(rested_cpu_s=time.process_time() - used)


class TurnsEnded(Exception):  # noqa: N818 - what the parent did, not an error of this rank
    """The parent has closed the pipe: there will be no more turns."""

    def __init__(self) -> None:
        super().__init__("the command that gave this launch its turns has gone")


def of_job(job: Job, events: Events, peers: Peers) -> Turn | Undivided:
    """Return the turns of this launch, as its job says."""
    if not job.in_turns:
        return UNDIVIDED
    return Turn(events, peers, int(os.environ[TURN_VARIABLE]), job.cpus)
