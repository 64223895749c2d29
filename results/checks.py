"""The audit of a record: every check once, over all of its launches.

This module knows what was found, and not what a check looks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.results.record import Check, CheckResult, Launch, Weight

SLOWED = 0.10
"""How much longer the fixed calculation may take in one launch than in another of the same run."""


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


def disturbance(launch: Launch) -> str | None:
    """Return what disturbed a launch most plainly; null: nothing did."""
    if launch.noise.reasons:
        return launch.noise.reasons[0]
    found = failed([launch], Weight.NOISY)
    return told(found[0]) if found else None


def slowed_throughout(launches: Sequence[Launch]) -> tuple[int, str] | None:
    """Return how many launches ran on a slower processor than the quickest, and how much; or null.

    The check of a launch sees a processor that changes while its windows run. One that was slow all
    the time shows beside the other launches only: its quickest fixed calculation took longer.
    Launches in turns are left out: what slows them slows what they are compared with.
    """
    quickest_us = [
        launch.clocks.calculation_us_min
        for launch in launches
        if launch.clocks is not None
        and launch.clocks.calculation_us_min is not None
        and not launch.in_turns
    ]
    slow = [took for took in quickest_us if took > (1 + SLOWED) * min(quickest_us)]
    if not slow:
        return None
    return len(slow), (
        f"a fixed calculation took at least {max(slow):.0f} us, and {min(quickest_us):.0f} us in "
        "another launch: something slowed the processor throughout, as another virtual machine on "
        "the same core does; use a dedicated host, or measure when it is quieter"
    )


def told(check: Judged) -> str:
    """Return the check with the figures of its first launch with that result."""
    return f"{check.name}: {check.evidence[0]}"


def _folded(name: str, checks: list[Check], launches: int) -> Judged:
    for result in (CheckResult.FAIL, CheckResult.PASS, CheckResult.NOT_APPLICABLE):
        found = [check for check in checks if check.result is result]
        if found:
            evidence = tuple(dict.fromkeys(check.evidence for check in found))
            return Judged(name, result, found[0].weight, evidence, len(found), launches)
    raise ValueError(f"no check of the name {name} in any launch")
