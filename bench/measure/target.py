"""What the measuring code needs from the outside: a workload, a clock, its peers, a listener.

Protocols and their null objects, nothing else. No rule of measurement lives here, and no device.
"""

from __future__ import annotations

import time
from typing import Protocol

from bench.results.record import Phase


class Target(Protocol):
    """A built workload on an opened device."""

    def advance(self, micro_batches: int) -> None:
        """Issue the work of so many micro-batches, updates included, without waiting for it."""

    def discard(self, micro_batches: int) -> None:
        """Draw so many batches from the loader, at a window edge, and do nothing with them."""

    def fence(self) -> None:
        """Return when every issued piece of work has finished on the device."""

    def compiles(self) -> int:
        """Return how many graphs were compiled so far."""

    def executions(self) -> int | None:
        """Return how many graphs were executed so far; null on a device that has no graphs."""

    def residual(self) -> float:
        """Read an updated parameter twice and return how much longer the first read took.

        Unit: seconds. After a fence that waits, it is about 0.
        """


class Clock(Protocol):
    """A clock that never goes back."""

    def now(self) -> float:
        """Return the time since some fixed moment. Unit: seconds."""


class Peers(Protocol):
    """Agreement between the ranks of a launch: every rank must make the same calls in order."""

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on at least one rank."""

    def most(self, value: float) -> float:
        """Return the largest value of all ranks."""

    def barrier(self) -> None:
        """Return when every rank has arrived, waiting on the host and not on the device."""


class Progress(Protocol):
    """A listener. It is called between windows, never inside one."""

    def phase(self, phase: Phase) -> None:
        """A phase begins."""

    def warm_up(self, steps: int, seconds: float, period_s: float) -> None:
        """Warm-up has run so many steps, and a period takes about so long."""

    def window(self, done: int, planned: int, seconds: float) -> None:
        """A clean window took so long on the slowest rank."""

    def voided(self, count: int) -> None:
        """A graph was compiled inside a window, so it does not count: the total so far."""


class WallClock:
    """The machine's monotonic clock of highest resolution."""

    def now(self) -> float:
        """Return seconds since an arbitrary moment."""
        return time.perf_counter()


class Alone:
    """The peers of a process that has none."""

    def any(self, flag: bool) -> bool:
        """Return the flag."""
        return flag

    def most(self, value: float) -> float:
        """Return the value."""
        return value

    def barrier(self) -> None:
        """Return at once."""


class Silent:
    """A listener that listens to nothing."""

    def phase(self, phase: Phase) -> None:
        """Ignore it."""

    def warm_up(self, steps: int, seconds: float, period_s: float) -> None:
        """Ignore it."""

    def window(self, done: int, planned: int, seconds: float) -> None:
        """Ignore it."""

    def voided(self, count: int) -> None:
        """Ignore it."""


class ClockError(Exception):
    """The clock did not advance over work that was done, so no rate can be computed."""


WALL_CLOCK: Clock = WallClock()
ALONE: Peers = Alone()
SILENT: Progress = Silent()


def timed_advance(target: Target, micro_batches: int, clock: Clock) -> float:
    """Issue work, fence it, and return the time of both together. Unit: seconds.

    The caller has fenced what came before.

    Raises:
        ClockError: the clock shows no time for it.
    """
    begin = clock.now()
    target.advance(micro_batches)
    target.fence()
    elapsed = clock.now() - begin
    if elapsed <= 0:
        raise ClockError(
            f"{micro_batches} micro-batches took {elapsed} s by this clock: nothing was measured. "
            "Use a clock of finer resolution, or more periods per window"
        )
    return elapsed
