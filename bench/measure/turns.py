"""Waiting for one's turn: two launches on one machine that compute by turns, window by window.

A launch that is compared with another one waits before every window until it is told that the other
one rests. No window is open meanwhile. This module must not know who tells it.
"""

from __future__ import annotations

from typing import Protocol


class Turns(Protocol):
    """Says when this launch may compute. Every rank must make the same calls in order."""

    def wait(self) -> bool:
        """Return when the next window may run; false: there is nobody to wait for."""


class Undivided:
    """The turns of a launch that has the machine to itself."""

    def wait(self) -> bool:
        """Return at once."""
        return False

    def wait_to_begin(self) -> None:
        """Return at once."""

    def wait_for_the_end(self) -> None:
        """Return at once."""


UNDIVIDED = Undivided()
