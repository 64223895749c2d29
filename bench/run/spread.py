"""One launch whose ranks run on several nodes, seen from the first one as one group of ranks.

The other nodes start, watch and end their own ranks (`bench.run.following`); what they tell is put
where the judgement of a launch looks for it, as if all ranks were here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.run.group import Group
from bench.run.messages import Begin, Ended, Gone, Heard, NotBegun, Stacks, Stop, Tails
from bench.run.wire import Wire
from bench.worker.job import Event, Failure, failure_file, log_file

GONE_S = 20.0
"""A node gets this long to end its ranks; one that does not answer ends them when it is let go."""
_TAILS_S = 5.0


@dataclass
class Member:
    """Another node of the run."""

    node: int
    """Its number."""
    wire: Wire
    lost: str | None = None
    """Why it takes part no more; null: it does."""


@dataclass
class _Part:
    """Another node's part of one launch."""

    member: Member
    ranks: range
    told: set[str] = field(default_factory=set)

    @property
    def title(self) -> str:
        return title(self.member.node, self.ranks)


class Spread:
    """The ranks of one launch on this node and on others.

    Args:
        local: Those on this one, which is the first.
        members: The other nodes, which have been told to begin, in the order of their ranks.
        folder: Of the launch, where failures and logs go.
    """

    def __init__(self, local: Group, members: Sequence[Member], folder: Path) -> None:
        here = len(local.codes)
        self._local = local
        self._folder = folder
        self._parts = [
            _Part(member, range(place * here, (place + 1) * here))
            for place, member in enumerate(members, start=1)
        ]
        self.codes: list[int | None] = [None] * (here * (1 + len(self._parts)))
        self.ended_at: list[float | None] = list(self.codes)
        self.lost: str | None = None
        self.killed_for_memory = False
        self._waits: dict[int, bool] = {}

    def listen(self, timeout_s: float) -> Iterator[Event]:
        """Yield the events of all ranks."""
        yield from self._local.listen(timeout_s)
        for part in self._parts:
            yield from self._hear(part)

    def ended(self) -> bool:
        """Return whether every rank has ended, noting the exit codes."""
        self._local.ended()
        here = len(self._local.codes)
        self.codes[:here] = self._local.codes
        self.ended_at[:here] = self._local.ended_at
        return all(code is not None for code in self.codes)

    def failed(self) -> bool:
        """Return whether any rank has ended badly so far, or a node has gone."""
        self.ended()
        return self.lost is not None or any(code not in (0, None) for code in self.codes)

    def ask_for_stacks(self) -> dict[int, bool]:
        """Have every rank print where it stands, and return whether it waits for others."""
        for part in self._parts:
            part.member.wire.send(Stacks())
        here = self._local.ask_for_stacks()
        self._await("tails", _TAILS_S)
        return {**here, **self._waits}

    def kill(self) -> None:
        """End every process that this launch started, on all nodes."""
        for part in self._parts:
            part.member.wire.send(Stop())
        self._local.kill()
        self._await("gone", GONE_S)
        for part in self._parts:
            if "gone" not in part.told and part.member.lost is None:
                self._lose(part, f"it has not ended its ranks within {GONE_S:.0f} s")

    def _await(self, word: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for part in self._parts:
            while word not in part.told and part.member.lost is None:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                # Events come too late to matter, and codes from here on are our doing.
                list(self._hear(part, min(left_s, 0.2)))

    def _hear(self, part: _Part, timeout_s: float = 0.0) -> Iterator[Event]:
        member = part.member
        if member.lost is not None:
            return
        while (message := member.wire.receive(timeout_s)) is not None:
            timeout_s = 0.0
            if isinstance(message, Heard) and message.event.rank in part.ranks:
                yield message.event
            elif isinstance(message, Ended) and message.rank in part.ranks:
                self.codes[message.rank] = message.code
                self.ended_at[message.rank] = member.wire.arrived
            elif isinstance(message, NotBegun):
                self.lost = self.lost or f"{part.title} could not start its ranks: {message.reason}"
            elif isinstance(message, Tails):
                part.told.add("tails")
                self._waits.update(
                    {rank: waits for rank, waits in message.waits.items() if rank in part.ranks}
                )
                self._keep(part, message.tails, [], 0.0)
            elif isinstance(message, Gone):
                part.told.add("gone")
                self.killed_for_memory = self.killed_for_memory or message.killed_for_memory
                # How far its clock is behind ours, but for the way of the message.
                behind_s = member.wire.arrived - message.now
                self._keep(part, message.tails, message.failures, behind_s)
        if member.wire.gone is not None:
            self._lose(part, member.wire.gone)

    def _keep(
        self, part: _Part, tails: dict[int, str], failures: list[Failure], behind_s: float
    ) -> None:
        for rank, tail in tails.items():
            if rank in part.ranks:
                log_file(self._folder, rank).write_text(tail, encoding="utf-8")
        for failure in failures:
            if failure.rank in part.ranks:
                here = failure.model_copy(update={"time": failure.time + behind_s})
                path = failure_file(self._folder, failure.rank)
                path.write_text(here.model_dump_json(), encoding="utf-8")

    def _lose(self, part: _Part, reason: str) -> None:
        part.member.lost = reason
        # What is alive there ends with the connection.
        part.member.wire.close()
        self.lost = self.lost or f"{part.title} has gone: {reason}"


def title(node: int, ranks: range) -> str:
    """Return what a node is called in messages, with its ranks of a launch."""
    first, last = ranks[0], ranks[-1]
    return f"node {node} ({f'rank {first}' if first == last else f'ranks {first} to {last}'})"


def tell_to_begin(members: Sequence[Member], begin: Begin) -> None:
    """Have the other nodes start their ranks.

    Args:
        members: In the order of their ranks.
        begin: What to start, but for the place of each.
    """
    for place, member in enumerate(members, start=1):
        member.wire.send(begin.model_copy(update={"node": place}))
