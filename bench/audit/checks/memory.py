"""Did the memory stay as it was?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from scipy.special import stdtrit

from bench.audit.evidence import Evidence
from bench.audit.finding import FAIL, NA, PASS, Finding
from bench.results.series import grouped, line

_FEWEST = 4
_MOST = 19
"""More readings are looked at as means of neighbours, so that slow wandering averages out."""
_CONFIDENCE = 0.9995
_SHARE = 0.01
_FLOOR_BYTES = 16 * 2**20
"""Allocators keep and return memory in pieces of this order."""
_GOES_ON = 0.5
"""Both halves of a leak grow like the whole; an allocator that settles slows down."""


def memory_flat(evidence: Evidence) -> Finding:
    """The memory in use did not grow from window to window.

    A list that keeps every loss, or a graph that is never freed, slows training down and ends it
    hours later, so the speed of the first minute is no speed of training. The memory in use (of the
    host without the files it maps, which come and go) is read before the first window and after
    every one, and a line is put through all readings. It fails when the line rises beyond its own
    error (t test, 0.05 %), by more than 1 % of the memory and more than 16 MiB over the windows,
    and either half of them goes on rising (its line, or its median step: memory given back once
    bends a line, and ends no leak). The second half is looked at in the same way alone, since a
    leak first eats what the process has free. By simulation, memory that wanders by 5 %, each
    reading correlated with the next by 0.5, fails in under 0.7 % of launches.
    """
    memory = evidence.memory_bytes
    if len(memory) < _FEWEST:
        if not memory:
            return NA, "the device does not tell its memory in use"
        return NA, f"{len(memory)} readings, at least {_FEWEST} are needed"
    values = grouped(memory, _MOST)
    found = line(values)
    size = len(memory) // len(values)
    text = (
        f"{memory[-1] / 2**20:.0f} MiB in use after the last of {len(memory) - 1} windows; the "
        f"line through all readings changes by {found.slope * (len(values) - 1) / 2**20:+.1f} MiB, "
        f"{found.slope / size / 2**20:+.2f} \N{PLUS-MINUS SIGN} "
        f"{found.slope_error / size / 2**20:.2f} a window"
    )
    if _leaks(values):
        return FAIL, text
    late = values[len(values) // 2 :]
    if len(late) >= _FEWEST and _leaks(late):
        rise = line(late).slope * (len(late) - 1)
        return FAIL, f"{text}; that through the second half of them by {rise / 2**20:+.1f} MiB"
    return PASS, text


def _leaks(values: Sequence[float]) -> bool:
    half = len(values) // 2
    found = line(values)
    growth = found.slope * (len(values) - 1)
    certain = found.slope > found.slope_error * float(stdtrit(len(values) - 2, _CONFIDENCE))
    large = growth > max(_SHARE * values[-1], _FLOOR_BYTES)
    goes_on = all(_rise(part) > _GOES_ON * found.slope for part in (values[:-half], values[half:]))
    return certain and large and goes_on


def _rise(values: Sequence[float]) -> float:
    return max(line(values).slope, median(after - before for before, after in pairwise(values)))
