"""A case under way: what it has come to, who is told, and the order of its next launch.

Shared by the rounds of a run and the pairs of a comparison; starts nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from bench.backends import registry
from bench.results.record import Health, Launch, Precompiled
from bench.results.store import Stored
from bench.run.ending import End
from bench.run.launching import Order
from bench.run.plan import Planned
from bench.worker.job import Event


@dataclass
class Progressing:
    """A case under way."""

    planned: Planned
    launches: list[Launch] = field(default_factory=list)
    wanted: int = 0
    """Launches to reach; a precision target raises it after the pilot."""
    used_s: float = 0.0
    launched_here: int = 0
    """Launches of this session, the first of which meets a cold compile cache."""
    precompiled: Precompiled | None = None
    """Set once its cache has been filled: then the first launch meets a warm one too."""
    stored: Stored | None = None
    """Set once the case is done."""
    complaint: str | None = None
    """Set when the case names something that does not exist: the user's error, not a result."""


class Listener(Protocol):
    """Told how the run goes; it must not raise."""

    def begin(self, cases: Sequence[Progressing]) -> None:
        """The run starts with these cases."""

    def precompile(self, cases: Sequence[Progressing]) -> None:
        """The compile caches of these cases are being filled."""

    def precompiled(self, case: Progressing, result: Precompiled | End, seconds: float) -> None:
        """That of the case is filled, or something stood in the way."""

    def launch(self, case: Progressing, round_number: int) -> None:
        """A launch of the case starts."""

    def event(self, case: Progressing, event: Event) -> None:
        """The launch is so far."""

    def launched(self, case: Progressing, result: Launch | End, seconds: float) -> None:
        """The launch has ended."""

    def health(self, case: Progressing) -> None:
        """The health pass of the case starts."""

    def examined(self, case: Progressing, health: Health, seconds: float) -> None:
        """The health pass has ended."""

    def recorded(self, case: Progressing) -> None:
        """The case has its record."""

    def over(self) -> None:
        """Nothing more comes, however it ended."""


def order_of(case: Progressing, number: int, session: str, caches: Path) -> Order:
    """Return the order of a case's next launch.

    Args:
        case: Under way.
        number: Of the round.
        session: Name of this invocation.
        caches: Folder in which each case has a compile cache of its own.
    """
    planned, index = case.planned, len(case.launches)
    measure = planned.case.measure
    folder = caches / f"{planned.keys.fingerprint}-{planned.position}"
    variables = registry.get(planned.backend).compile_cache(
        planned.case.knobs, planned.probe, str(folder)
    )
    state: Literal["cold", "warm", "none"] = "none"
    if variables is not None:
        state = "warm" if case.launched_here or case.precompiled is not None else "cold"
    return Order(
        planned=planned,
        index=index,
        seed=launch_seed(planned.case.knobs.seed, index),
        session=session,
        round=number,
        timeout_s=max(0.0, measure.timeout_s - case.used_s),
        cache=state,
        cache_folder=None if variables is None else folder,
        cache_environment=variables or {},
    )


def launch_seed(seed: int, index: int) -> int:
    """Return the seed of a launch: equal for all cases of a round, different between launches."""
    digest = hashlib.sha256(f"{seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
