"""What the nodes of a run say to each other: one JSON document a line.

The first node says what to launch and when to end it; the others start their ranks and tell what
becomes of them. A node runs cases of its own plan only: a message can name one and never bring one.
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from bench._version import __version__
from bench.results.record import Outcome
from bench.scenarios.schema import Strict
from bench.worker.job import Event, Failure


class Seen(Strict):
    """One case as a node has planned it."""

    scenario: str
    case: str
    backend: str
    position: int
    fingerprint: str
    outcome: Annotated[Outcome | None, Field(strict=False)] = None
    """Why it cannot be launched there; null: it can."""
    reason: str | None = None
    details: dict[str, str]
    """Of what else the fingerprint is made, in words: the device, knobs, flags, and digests of own
    files."""


class Hello(Strict):
    """A node that would join."""

    kind: Literal["hello"] = "hello"
    version: str
    """Of this tool."""
    node: int | None
    """The number that it was given; null: any."""
    nodes: int
    """How many it was told that there are."""
    cases: list[Seen]
    software: dict[str, str]
    """Version by distribution."""


class Welcome(Strict):
    """It has joined."""

    kind: Literal["welcome"] = "welcome"
    node: int


class Begin(Strict):
    """Start your ranks of one launch."""

    kind: Literal["begin"] = "begin"
    scenario: str
    backend: str
    position: int
    fingerprint: str
    """Of what is launched: in a health pass not that of the case itself."""
    purpose: Literal["measure", "health"]
    node: int
    """Your place among those that take part."""
    nodes: int
    index: int
    seed: int
    session: str
    round: int
    diagnose: bool
    cache: Literal["cold", "warm", "none"]
    host: str
    port: int
    """Where rank 0 waits for the others."""


class NotBegun(Strict):
    """They could not be started."""

    kind: Literal["not_begun"] = "not_begun"
    reason: str


class Heard(Strict):
    """A rank has told how far it is."""

    kind: Literal["heard"] = "heard"
    event: Event


class Ended(Strict):
    """A rank has ended by itself."""

    kind: Literal["ended"] = "ended"
    rank: int
    code: int


class Stacks(Strict):
    """Have your ranks print where they stand, and send what they printed last."""

    kind: Literal["stacks"] = "stacks"


class Tails(Strict):
    """Where each rank stands."""

    kind: Literal["tails"] = "tails"
    tails: dict[int, str]
    waits: dict[int, bool]
    """Whether it waits for the others."""


class Stop(Strict):
    """End your ranks of this launch."""

    kind: Literal["stop"] = "stop"


class Gone(Strict):
    """No process of the launch is left there."""

    kind: Literal["gone"] = "gone"
    failures: list[Failure]
    tails: dict[int, str]
    killed_for_memory: bool
    now: float
    """Of the sender's clock, as the failures' times are. Unit: seconds since the epoch."""


class Over(Strict):
    """The run is over for the node that is told."""

    kind: Literal["over"] = "over"
    code: int
    """What its command returns."""
    reason: str | None = None
    """Null: it ended as it should."""


Message = Annotated[
    Hello | Welcome | Begin | NotBegun | Heard | Ended | Stacks | Tails | Stop | Gone | Over,
    Field(discriminator="kind"),
]
_MESSAGES: TypeAdapter[Message] = TypeAdapter(Message)


def read(line: bytes) -> Message:
    """Return the message of a line; of a node with another version, that it is one.

    Raises:
        pydantic.ValidationError: it is none.
    """
    try:
        return _MESSAGES.validate_json(line)
    except ValidationError:
        if (other := _of_another_version(line)) is None:
            raise
        return other


def _of_another_version(line: bytes) -> Hello | None:
    """Return a node's own words as far as they are understood; null: it has none of its own.

    Another version may say more or less of itself, and is a node all the same: what is told of it
    is its version, by which it is let go.
    """
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or told.get("kind") != "hello":
        return None
    version = told.get("version")
    if not isinstance(version, str) or version == __version__:
        return None
    return Hello(version=version, node=None, nodes=0, cases=[], software={})
