"""A pool of measured pairs, comparisons drawn from it, and what the harness decides on them.

Nothing is measured here: the decisions are those of the harness's own code, on real launches.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench.results.comparison import ComparisonVerdict, Decision, decide
from bench.results.matching import pairs_of
from bench.results.record import Launch, Verdict
from bench.run.recording import judge

BLOCK = 2
"""Pairs that stay together: A B B A."""
SLOWED = 1.3
"""Longest fixed calculation of a launch / its shortest, from which on it counts as slowed."""


@dataclass(frozen=True)
class Pool:
    """Launches of either side, pair by pair, in the order in which they were measured."""

    a: Sequence[Launch]
    b: Sequence[Launch]

    def __len__(self) -> int:
        return len(self.a)

    def decision(self, places: Sequence[int], *, watched: bool = True) -> Decision:
        """Return what the harness decides on these pairs.

        Args:
            places: Of the pairs in the pool.
            watched: False looks at the ratios alone, as if nobody had watched the machine.
        """
        a, b = [self.a[place] for place in places], [self.b[place] for place in places]
        pairs = pairs_of(a, b)
        if not watched:
            return decide([replace(pair, disturbed=False) for pair in pairs])
        suspect = Verdict.SUSPECT in (judge(a)[0], judge(b)[0])
        return decide(pairs, obstacle="a side is suspect" if suspect else None)

    def ratios(self) -> list[float]:
        """Return B / A of every pair."""
        return [pair.ratio for pair in pairs_of(self.a, self.b)]

    def disturbed(self) -> int:
        """Return in how many pairs something else used the machine."""
        return sum(pair.disturbed for pair in pairs_of(self.a, self.b))

    def slowed(self) -> int:
        """Return in how many pairs something slowed the processor for a while.

        A fixed calculation, made after every window, took far longer after one than after another:
        so works a neighbour on the same core, whom no counter of a virtual machine shows. `bench
        ab` disregards it, since both sides meet the same.
        """
        return sum(any(map(_slowed, pair)) for pair in zip(self.a, self.b, strict=True))

    def scatter(self) -> float:
        """Return the standard deviation of the logarithms of the ratios."""
        return statistics.stdev(math.log(ratio) for ratio in self.ratios())


def _slowed(launch: Launch) -> bool:
    clocks = launch.clocks
    if clocks is None or clocks.calculation_us_min is None or clocks.calculation_us_max is None:
        return False
    return clocks.calculation_us_max > SLOWED * clocks.calculation_us_min


def drawn(pairs: int, count: int, draws: int, seed: int = 0) -> Iterator[list[int]]:
    """Draw comparisons of so many pairs, each as the places of its pairs in the pool.

    A B B A blocks are drawn, none twice into one comparison, and stay whole: what drifts within a
    block stays inside, and either side begins as often. They are drawn apart and not as a stretch
    of neighbours because sixty pairs have only 51 stretches of ten; `stretches` has those.

    Args:
        pairs: In the pool.
        count: Of a comparison.
        draws: How many comparisons.
        seed: Of the draws.
    """
    source = random.Random(seed)  # noqa: S311 - no secret
    starts = range(0, pairs - BLOCK + 1, BLOCK)
    for _ in range(draws):
        blocks = sorted(source.sample(starts, min(count // BLOCK, len(starts))))
        yield [place for start in blocks for place in range(start, start + BLOCK)]


def stretches(pairs: int, count: int) -> Iterator[list[int]]:
    """Yield every stretch of neighbouring pairs, as places: slow drift stays inside as well."""
    for start in range(max(0, pairs - count) + 1):
        yield list(range(start, min(start + count, pairs)))


def rates(decisions: Sequence[Decision]) -> dict[str, float]:
    """Return the share of each verdict."""
    counted = Counter(decision.verdict for decision in decisions)
    return {verdict.value: counted[verdict] / len(decisions) for verdict in ComparisonVerdict}
