"""What other nodes tell of a launch is dated by when it was told, not by when it is looked at."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from bench.results.record import Phase
from bench.run import ending
from bench.run.group import Group, Share
from bench.run.messages import Ended, Gone, Stop
from bench.run.spread import Member, Spread
from bench.run.wire import Wire
from bench.worker.job import Failure, FailureKind

SLOW_S = 2.0
LATE_S = 0.75 * SLOW_S
"""What is dated by when it is looked at is later still; three threads on a busy machine are not."""


class OtherNode:
    """Another node, whose clock is some seconds wrong and whose rank fails."""

    def __init__(self, node: int, wrong_s: float) -> None:
        ours, theirs = socket.socketpair()
        self.member = Member(node, Wire(ours))
        self._wire = Wire(theirs)
        self._wrong_s = wrong_s
        self._failure = Failure(
            rank=node,
            kind=FailureKind.EXCEPTION,
            phase=Phase.MEASURE,
            message=f"ValueError: on {node}",
            time=time.time() + wrong_s,
        )
        self._wire.send(Ended(rank=node, code=1))

    def end(self, after_s: float) -> None:
        """Answer the word to stop, so long after it."""
        assert isinstance(self._wire.receive(10), Stop)
        time.sleep(after_s)
        now = time.time() + self._wrong_s
        self._wire.send(Gone(failures=[self._failure], tails={}, killed_for_memory=False, now=now))

    def close(self) -> None:
        self._wire.close()
        self.member.wire.close()


def test_a_failure_is_dated_when_it_came_however_long_other_nodes_take(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "sleep 60"]
    local = Group(command, {"PATH": "/usr/bin:/bin"}, Share(1, 0, 3), tmp_path)
    begin = time.time()
    second, first = OtherNode(2, -500.0), OtherNode(1, 500.0)
    spread = Spread(local, [first.member, second.member], tmp_path)
    time.sleep(SLOW_S)  # the loop that listens is busy elsewhere
    while spread.codes[1:] != [1, 1]:
        list(spread.listen(0.1))
    answers = [
        threading.Thread(target=first.end, args=(SLOW_S,)),
        threading.Thread(target=second.end, args=(0.0,)),
    ]
    for answer in answers:
        answer.start()
    spread.kill()
    for answer in answers:
        answer.join(10)
    first.close()
    second.close()
    dated = {failure.rank: failure.time for failure in ending.failures_of(tmp_path, range(3))}
    assert dated == pytest.approx({1: begin, 2: begin}, abs=LATE_S)
    ended = [seen for seen in spread.ended_at[1:] if seen is not None]
    assert ended == pytest.approx([begin, begin], abs=LATE_S)
