"""How nodes find each other: who listens, who calls, and what stands in the way."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench.run import meeting as meetings
from bench.run.meeting import AloneError, Meeting, MeetingError
from bench.scenarios.errors import ScenarioError


def never() -> bool:
    return False


@pytest.fixture
def place() -> Meeting:
    return Meeting(2, "127.0.0.1", meetings.free_port("127.0.0.1"), timeout_s=5.0)


@pytest.fixture
def listening(place: Meeting) -> Iterator[socket.socket]:
    found = meetings.listen(place)
    assert found is not None
    with found:
        yield found


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("10.0.0.1:29500", ("10.0.0.1", 29500)),
        ("trn1-a.internal:1", ("trn1-a.internal", 1)),
        ("[fd00::1]:29500", ("fd00::1", 29500)),
    ],
)
def test_an_endpoint_is_a_host_and_a_port(written: str, found: tuple[str, int]) -> None:
    assert meetings.endpoint(written) == found


@pytest.mark.parametrize(
    "written", ["10.0.0.1", ":29500", "host:", "host:0", "host:65536", "a b:1", "fd00::1:29500"]
)
def test_anything_else_is_refused_with_the_form(written: str) -> None:
    with pytest.raises(ScenarioError, match="HOST:PORT"):
        meetings.endpoint(written)


def test_who_has_the_address_is_first_and_others_call(
    place: Meeting, listening: socket.socket
) -> None:
    elsewhere = replace(place, host="192.0.2.1")
    assert meetings.listen(elsewhere) is None
    assert meetings.listen(replace(place, node=1)) is None
    caller = meetings.reach(replace(place, node=1), never)
    answered = meetings.accept(listening)
    assert caller is not None
    assert answered is not None
    assert answered.own_address == "127.0.0.1"
    caller.close()
    answered.close()


def test_a_second_command_on_the_machine_is_another_node(
    place: Meeting, listening: socket.socket
) -> None:
    assert meetings.listen(place) is None


def test_the_first_node_by_number_finds_its_port_taken(
    place: Meeting, listening: socket.socket
) -> None:
    with pytest.raises(AloneError) as caught:
        meetings.listen(replace(place, node=0))
    assert str(caught.value) == (
        f"port {place.port} of 127.0.0.1 is taken by another program: end it, or name another port "
        "with --rdzv-endpoint on every node"
    )
    assert caught.value.recorded == str(caught.value).replace("127.0.0.1", "<host>")


def called(place: Meeting, listening: socket.socket, answer: bytes) -> MeetingError:
    """Return what a caller makes of a place that answers so and hangs up."""
    wire = meetings.reach(place, never)
    assert wire is not None
    answering, _ = listening.accept()
    with answering:
        answering.sendall(answer)
    while wire.gone is None:
        wire.receive(0.1)
    found = meetings.why_gone(place, wire)
    wire.close()
    return found


def test_who_has_the_address_goes_on_alone_where_another_program_has_the_port(
    place: Meeting, listening: socket.socket
) -> None:
    found = called(place, listening, b"SSH-2.0-OpenSSH\n")
    assert isinstance(found, AloneError)
    assert "is taken by another program" in str(found)
    numbered = called(replace(place, node=1), listening, b"SSH-2.0-OpenSSH\n")
    assert str(numbered) == str(found)
    assert not isinstance(numbered, AloneError)


def test_a_program_that_hangs_up_without_a_word_has_the_port_of_the_first_node(
    place: Meeting, listening: socket.socket
) -> None:
    """As the store of torch does with whoever is no client of its own."""
    found = called(place, listening, b"")
    assert isinstance(found, AloneError)
    said = f"who has port {place.port} of 127.0.0.1 closes connections without a word: if it is an"
    assert str(found).startswith(said)
    assert "if it was the first node, its own messages say why" in str(found)
    assert "port" in found.recorded
    assert "127.0.0.1" not in found.recorded
    numbered = called(replace(place, node=1), listening, b"")
    assert str(numbered) == str(found)
    assert not isinstance(numbered, AloneError)


def test_a_node_that_answers_speaks_at_once(place: Meeting, listening: socket.socket) -> None:
    caller = meetings.reach(replace(place, node=1), never)
    answered = meetings.accept(listening)
    assert caller is not None
    assert answered is not None
    answered.close()
    while caller.gone is None:
        caller.receive(0.1)
    assert caller.answered
    caller.close()


def test_who_loses_the_first_node_before_it_has_joined_does_not_become_the_first(
    place: Meeting, listening: socket.socket
) -> None:
    """Not even on the same machine, where it has the address too."""
    found = called(place, listening, b"\n")
    assert "has gone before this one had joined: its connection was closed" in str(found)
    assert not isinstance(found, AloneError)


def test_the_first_node_by_number_listens_even_where_it_does_not_know_the_address(
    place: Meeting,
) -> None:
    found = meetings.listen(replace(place, host="192.0.2.1", node=0))
    assert found is not None
    with found:
        assert found.getsockname()[0] == "0.0.0.0"  # noqa: S104


def test_an_address_that_is_named_is_the_only_one_that_is_open(listening: socket.socket) -> None:
    assert listening.getsockname()[0] == "127.0.0.1"


def test_a_name_that_means_a_loopback_here_is_open_to_others(
    place: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _host, *rest, **more: known("127.0.0.1", *rest, **more)
    )
    found = meetings.listen(replace(place, host="this-node"))
    assert found is not None
    with found:
        assert found.getsockname()[0] == "0.0.0.0"  # noqa: S104


def test_nobody_who_answers_is_an_error_that_says_how_to_look(place: Meeting) -> None:
    with pytest.raises(MeetingError) as caught:
        meetings.reach(replace(place, node=1, timeout_s=0.3), never)
    said = str(caught.value)
    assert said.startswith(f"nobody has answered at 127.0.0.1:{place.port} for 0.3 s")
    assert "firewall" in said


def test_a_host_that_is_not_known_is_named(place: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(MeetingError, match="the host of nowhere:29500 is not known here") as caught:
        meetings.listen(Meeting(2, "nowhere", 29500))
    assert not isinstance(caught.value, AloneError)  # who is the first cannot be told
    with pytest.raises(AloneError) as alone:
        meetings.listen(Meeting(2, "nowhere", 29500, 0))
    assert alone.value.recorded.startswith("the host of <host>:29500 is not known here")


def test_calling_ends_when_it_is_told_to(place: Meeting) -> None:
    assert meetings.reach(replace(place, node=1), lambda: True) is None


def test_the_interface_of_an_address() -> None:
    name = meetings.interface("127.0.0.1")
    assert name is not None
    assert meetings.interface("::ffff:127.0.0.1") == name
    assert meetings.interface("192.0.2.1") is None


def test_a_free_port_can_be_listened_at() -> None:
    port = meetings.free_port("127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        with socket.socket() as second, pytest.raises(OSError) as caught:  # noqa: PT011
            second.bind(("127.0.0.1", port))
    assert caught.value.errno == errno.EADDRINUSE
