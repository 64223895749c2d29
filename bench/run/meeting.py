"""How the nodes of a run find each other: one listens at an address that all were given.

The first node is the one whose address it is, unless the nodes were numbered. Nothing is launched
here, and nobody's plan is known.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import psutil

from bench.backends.temporary import told
from bench.run.wire import NOT_OURS, SILENT, Wire
from bench.scenarios.errors import ScenarioError

JOIN_TIMEOUT_S = 300.0
_TICK_S = 0.2
_CONNECT_S = 2.0
_BACKLOG = 128


class MeetingError(Exception):
    """This node cannot meet the others; the message says why and what to do."""


@dataclass(frozen=True)
class Meeting:
    """Where the nodes of a run meet."""

    nodes: int
    """How many, this one included."""
    host: str
    port: int
    node: int | None = None
    """The number of this one, from 0; null: who listens is 0, the others are taken as they come."""
    timeout_s: float = JOIN_TIMEOUT_S
    """How long one waits for the others."""

    @property
    def place(self) -> str:
        """The address as it was given."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class AloneError(MeetingError):
    """This is the first node, and nobody can join it.

    Args:
        words: The message about a meeting.
        meeting: That it is about.
    """

    def __init__(self, words: Callable[[Meeting], str], meeting: Meeting) -> None:
        super().__init__(words(meeting))
        self.recorded = words(replace(meeting, host="<host>"))
        """The message as it may be recorded."""


def endpoint(written: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`, where a numeric IPv6 host stands in brackets.

    Raises:
        ScenarioError: it is not of that form.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):(\d{1,5})", written)
    port = int(match[3]) if match is not None else 0
    if match is None or not 0 < port < 1 << 16:
        raise ScenarioError(
            f"--rdzv-endpoint {written}",
            "is not of the form HOST:PORT",
            "name the first node and a port that is free there, as in 10.0.0.1:29500",
        )
    return match[1] or match[2], port


def listen(meeting: Meeting) -> socket.socket | None:
    """Return the socket at which the first node waits; null: this is another node.

    Raises:
        AloneError: this is the first node, and cannot listen: its port is taken, say.
        MeetingError: the host is not known, nor who is the first.
    """
    if meeting.node not in (0, None):
        return None
    try:
        family, address = _resolved(meeting.host, meeting.port)
    except OSError as error:
        unknown = partial(_unknown, error)
        if meeting.node == 0:
            raise AloneError(unknown, meeting) from error
        raise MeetingError(unknown(meeting)) from error
    own = _is_own(family, address)
    if not own and meeting.node is None:
        return None
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((_where(meeting.host, address, own), meeting.port))
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        if error.errno != errno.EADDRINUSE:
            raise AloneError(partial(_deaf, error), meeting) from error
        if meeting.node is None:
            return None  # it may be the first node that has it: who answers there will tell
        raise AloneError(taken, meeting) from error
    found.settimeout(_TICK_S)
    return found


def taken(meeting: Meeting) -> str:
    """Return what is said of a port that another program has."""
    return (
        f"port {meeting.port} of {meeting.host} is taken by another program: end it, or name "
        "another port with --rdzv-endpoint on every node"
    )


def reach(meeting: Meeting, stop: Callable[[], bool]) -> Wire | None:
    """Return the connection to the first node, which may start later; null: `stop` said so.

    Raises:
        MeetingError: nobody answers in time.
    """
    deadline = time.monotonic() + meeting.timeout_s
    while not stop():
        try:
            return Wire(socket.create_connection((meeting.host, meeting.port), _CONNECT_S))
        except OSError as error:
            if time.monotonic() > deadline:
                raise MeetingError(
                    f"nobody has answered at {meeting.place} for {meeting.timeout_s:g} s "
                    f"({told(error)}): start the same command there, with --node-rank 0, and look "
                    "whether this node can reach it (name, firewall, security group)"
                ) from error
            # Nothing tells when a port of another machine opens, but calling it again.
            time.sleep(_TICK_S)
    return None


def why_gone(meeting: Meeting, wire: Wire) -> MeetingError:
    """Return the error of a first node that went before it let this one join."""
    strange = taken if wire.gone in (NOT_OURS, SILENT) else _wordless
    if strange is taken or (wire.gone is not None and not wire.answered):
        # Without a number this is the first node where the address is its own.
        first = meeting.node is None and _is_at_home(meeting)
        return AloneError(strange, meeting) if first else MeetingError(strange(meeting))
    if wire.gone is None:
        return MeetingError(
            f"the first node, at {meeting.place}, has not let this one join within "
            f"{meeting.timeout_s:g} s"
        )
    return MeetingError(
        f"the first node, at {meeting.place}, has gone before this one had joined: {wire.gone}; "
        "its own messages say why"
    )


def accept(listening: socket.socket) -> Wire | None:
    """Return the next connection that somebody opens; null: nobody did for a moment."""
    try:
        connection, _ = listening.accept()
    except (TimeoutError, ConnectionError):
        return None
    wire = Wire(connection)
    wire.beat()  # or a caller that is closed at once would take this for another program
    return wire


def interface(address: str) -> str | None:
    """Return the network interface that has an address; null: none is known by it."""
    plain = address.removeprefix("::ffff:").partition("%")[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(item.address.partition("%")[0] == plain for item in addresses):
            return name
    return None


def free_port(host: str) -> int:
    """Return a port that nothing on this machine listens at now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, str]:
    """Return the address of a host.

    Raises:
        OSError: it is not known here.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = found[0]
    return family, str(address[0])


def _unknown(error: OSError, meeting: Meeting) -> str:
    return (
        f"the host of {meeting.place} is not known here ({error.strerror or error}): name its "
        "numeric address"
    )


def _wordless(meeting: Meeting) -> str:
    return (
        f"who has port {meeting.port} of {meeting.host} closes connections without a word: if it "
        "is another program, end it, or name another port with --rdzv-endpoint on every node; if "
        "it was the first node, its own messages say why"
    )


def _deaf(error: OSError, meeting: Meeting) -> str:
    return f"cannot listen at {meeting.place}: {told(error)}"


def _is_at_home(meeting: Meeting) -> bool:
    with contextlib.suppress(OSError):
        return _is_own(*_resolved(meeting.host, meeting.port))
    return False


def _is_own(family: socket.AddressFamily, address: str) -> bool:
    """Return whether an address is one of this machine's."""
    with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.bind((address, 0))
        return True
    return False


def _where(host: str, address: str, own: bool) -> str:
    """Return the address to listen at: all of them, where the one that is known serves nobody else.

    Some systems have the machine's own name mean a loopback address, and behind a translated one
    the machine does not know it.
    """
    loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    literal = host in ("localhost", address)
    return "" if not own or (loopback and not literal) else address
