"""What goes over a connection between two nodes arrives, and an end of it is noticed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from bench._version import __version__
from bench.results.record import Phase
from bench.run import messages, wire
from bench.run.messages import Gone, Heard, Message, Over, Tails
from bench.run.wire import Wire
from bench.worker.job import Event, Failure, FailureKind

FAILURE = Failure(
    rank=1, kind=FailureKind.EXCEPTION, phase=Phase.WARM_UP, message="ValueError: odd", time=1.5
)
SAID: list[Message] = [
    Heard(event=Event(rank=3, phase=Phase.MEASURE, done=2, total=20, samples_per_s=12.5)),
    Tails(tails={1: "line\nline", 2: ""}, waits={1: True, 2: False}),
    Gone(failures=[FAILURE], tails={1: "…"}, killed_for_memory=True, now=2.5),
    Over(code=4, reason="why"),
]


@pytest.fixture
def ends() -> Iterator[tuple[Wire, socket.socket]]:
    """Return a wire, and the bare socket at its other end."""
    ours, theirs = socket.socketpair()
    made = Wire(ours)
    yield made, theirs
    made.close()
    theirs.close()


def gone(end: Wire, timeout_s: float = 5.0) -> str | None:
    deadline = time.monotonic() + timeout_s
    while end.gone is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return end.gone


def test_messages_arrive_as_they_were_sent_and_in_order() -> None:
    left, right = (Wire(end) for end in socket.socketpair())
    for message in SAID:
        left.send(message)
    assert [right.receive(5.0) for _ in SAID] == SAID
    assert right.receive() is None
    assert (left.gone, right.gone) == (None, None)
    left.close()
    assert gone(right) == "its connection was closed"
    right.close()


def test_what_was_said_before_the_end_is_still_heard(ends: tuple[Wire, socket.socket]) -> None:
    end, other = ends
    other.sendall(SAID[3].model_dump_json().encode() + b"\n")
    other.close()
    time.sleep(0.2)
    assert end.gone is None
    assert end.receive() == SAID[3]
    assert gone(end) == "its connection was closed"


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b'{"kind": "odd"}\n']
)
def test_another_program_is_known_by_what_it_says(
    ends: tuple[Wire, socket.socket], said: bytes
) -> None:
    end, other = ends
    other.sendall(said)
    assert gone(end) == wire.NOT_OURS


def test_a_node_that_falls_silent_is_lost_and_one_that_waits_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "SILENCE_S", 0.6)
    monkeypatch.setattr(wire, "BEAT_S", 0.2)
    left, right = (Wire(end) for end in socket.socketpair())
    ours, silent = socket.socketpair()
    lonely = Wire(ours)
    assert gone(lonely) == wire.SILENT
    assert (left.gone, right.gone) == (None, None)
    for end in (left, right, lonely):
        end.close()
    silent.close()


def test_who_goes_without_having_read_everything_has_closed_it_too(
    ends: tuple[Wire, socket.socket],
) -> None:
    """The system says of it that the connection was reset."""
    end, other = ends
    end.send(SAID[0])
    other.close()
    assert gone(end) == "its connection was closed"


def test_sending_to_nobody_is_no_error_and_is_noticed(ends: tuple[Wire, socket.socket]) -> None:
    end, other = ends
    other.close()
    for _ in range(3):
        end.send(SAID[0])
        time.sleep(0.05)
    assert gone(end) is not None


def test_a_line_that_is_no_message_is_refused() -> None:
    with pytest.raises(ValidationError):
        messages.read(b'{"kind": "over"}')


def test_a_node_of_another_version_is_one_whatever_else_it_says() -> None:
    told = messages.read(b'{"kind": "hello", "version": "99", "colour": "green"}')
    assert isinstance(told, messages.Hello)
    assert told.version == "99"
    same = f'{{"kind": "hello", "version": "{__version__}", "colour": "green"}}'
    for other in (same, '{"kind": "hello"}', '{"kind": "over", "version": "99"}', "[]", "é{"):
        with pytest.raises(ValidationError):
            messages.read(other.encode("latin-1"))
