"""The audit of a record: every check once, over all of its launches.

This module knows what was found, and not what a check looks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.results.record import Check, CheckResult, Launch, Weight


@dataclass(frozen=True)
class Judged:
    """One audit check over all launches of a record."""

    name: str
    result: CheckResult
    """Fail if it failed in any launch, else pass if it passed in any."""
    weight: Weight
    evidence: tuple[str, ...]
    """The figures of the launches with that result, the same words once."""
    found_in: int
    """Launches with that result."""
    launches: int

    @property
    def where(self) -> str:
        """Return in how many launches, where it is not in all; empty where it is."""
        if self.found_in == self.launches:
            return ""
        return f"in {self.found_in} of {self.launches} launches"


def judged(launches: Sequence[Launch]) -> list[Judged]:
    """Return every check of an audit once, in the order of its first launch."""
    named: dict[str, list[Check]] = {}
    for check in (check for launch in launches for check in launch.audit):
        named.setdefault(check.name, []).append(check)
    return [_folded(name, checks, len(launches)) for name, checks in named.items()]


def failed(launches: Sequence[Launch], weight: Weight) -> list[Judged]:
    """Return the checks of a weight that failed in some launch."""
    return [
        check
        for check in judged(launches)
        if check.result is CheckResult.FAIL and check.weight is weight
    ]


def _folded(name: str, checks: list[Check], launches: int) -> Judged:
    for result in (CheckResult.FAIL, CheckResult.PASS, CheckResult.NOT_APPLICABLE):
        found = [check for check in checks if check.result is result]
        if found:
            evidence = tuple(dict.fromkeys(check.evidence for check in found))
            return Judged(name, result, found[0].weight, evidence, len(found), launches)
    raise ValueError(f"no check of the name {name} in any launch")
