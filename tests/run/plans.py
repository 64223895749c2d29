"""Cases of two nodes as a node has planned them, for tests that launch nothing."""

from __future__ import annotations

from typing import Any

from bench.backends.base import Probe
from bench.results.record import Keys
from bench.run.plan import Planned
from tests.builders import a_case

PROBE = Probe(backend="cpu", available=True, device_model="Toy One", device_count=1)


def two_ranks(
    case: str = "default", position: int = 0, fingerprint: str = "f", **knobs: Any
) -> Planned:
    """Return a case of two ranks on two nodes, unless the knobs say otherwise."""
    return Planned(
        case=a_case(case, knobs={"processes": 2, "nodes": 2, **knobs}),
        backend="cpu",
        probe=PROBE,
        position=position,
        keys=Keys(work="w", series="s", fingerprint=fingerprint),
        versions={"torch": "2.9.0"},
    )
