"""How fast the processor under this thread computes right now, by a calculation of fixed length.

Two hardware threads share a core, and two virtual machines may share the two threads: then each
computes at little more than half its speed, and neither the clock rate, nor any counter that the
virtual machine shows, tells of it. A calculation that always needs the same instructions does.
"""

from __future__ import annotations

import time

_ROUNDS = 2000
"""About a tenth of a millisecond."""
_REPEATS = 3
"""The shortest counts: an interrupt, or a cache that the training has filled, meets one of them."""


def calculation_us() -> float:
    """Return what the fixed calculation takes. Unit: microseconds of this thread's CPU time.

    The figure compares with others of the same process only: it depends on the Python that runs it.
    """
    return min(_once() for _ in range(_REPEATS)) / 1e3


def _once() -> int:
    begin = time.thread_time_ns()
    total = 0
    for i in range(_ROUNDS):
        total += i * i
    return time.thread_time_ns() - begin
