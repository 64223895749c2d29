"""A connection between two nodes of a run: lines over a socket, and noticing that one has gone.

Plain sockets in the parents: they never import torch, and the end of a connection tells at once
that the other command has died, which a store in a child of its own would not. A machine that is
lost without a word is silent, and each side says every second that it is alive.
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import threading
import time

from pydantic import BaseModel, ValidationError

from bench.run.messages import Message, read

BEAT_S = 1.0
SILENCE_S = 10.0
"""A node that says nothing for so long is lost."""
_SEND_S = 10.0
_LONGEST = 1 << 24
"""A line that is longer comes from no node. Unit: bytes."""
NOT_OURS = "what answers there is another program"
_CLOSED = "its connection was closed"
SILENT = f"nothing was heard of it for {SILENCE_S:.0f} s"


class Wire:
    """One connection, which a thread of its own listens to.

    Args:
        connection: Open on both sides.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SEND_S)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._received: queue.SimpleQueue[tuple[Message, float]] = queue.SimpleQueue()
        self.arrived = 0.0
        """When the message came that was returned last, in seconds since the epoch."""
        self.answered = False
        """Whether anything at all has come from the other side."""
        self._sending = threading.Lock()
        self._gone: str | None = None
        self._closing = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="bench-wire", daemon=True)
        self._listener.start()

    @property
    def gone(self) -> str | None:
        """Why there is no connection any more; null: there is, or a message waits to be read."""
        return self._gone if self._received.empty() else None

    @property
    def own_address(self) -> str:
        """This side's address."""
        return str(self._socket.getsockname()[0])

    @property
    def address(self) -> str:
        """The other side's address."""
        try:
            return str(self._socket.getpeername()[0])
        except OSError:
            return "an address that is not known any more"

    def beat(self) -> None:
        """Say that this node is alive."""
        self._write(b"\n")

    def send(self, message: BaseModel) -> None:
        """Send a message; where nobody is left to take it, `gone` tells."""
        self._write(message.model_dump_json(by_alias=True).encode() + b"\n")

    def receive(self, timeout_s: float = 0.0) -> Message | None:
        """Return the next message; null: none arrived within the time."""
        try:
            message, self.arrived = self._received.get(timeout_s > 0, max(timeout_s, 0.0))
        except queue.Empty:
            return None
        return message

    def close(self) -> None:
        """End the connection."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._listener.join()
        self._socket.close()

    def _write(self, line: bytes) -> None:
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError as error:
            self._lose(_why(error))

    def _lose(self, reason: str) -> None:
        self._gone = self._gone or reason

    def _listen(self) -> None:
        unread = b""
        heard = beaten = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            while self._gone is None and not self._closing.is_set():
                ready = selector.select(BEAT_S / 2)
                now = time.monotonic()
                if ready:
                    try:
                        received = self._socket.recv(1 << 16)
                    except OSError as error:
                        self._lose(_why(error))
                        return
                    if not received:
                        self._lose(_CLOSED)
                        return
                    self.answered = True
                    heard, unread = now, self._take(unread + received)
                elif now - heard > SILENCE_S:
                    self._lose(SILENT)
                    return
                if now - beaten >= BEAT_S:
                    self.beat()
                    beaten = now

    def _take(self, received: bytes) -> bytes:
        *lines, unread = received.split(b"\n")
        for line in lines:
            if not line:
                continue
            try:
                self._received.put((read(line), time.time()))
            except ValidationError:
                self._lose(NOT_OURS)
                return b""
        if len(unread) > _LONGEST:
            self._lose(NOT_OURS)
        return unread


def _why(error: OSError) -> str:
    # Who is killed with something of ours unread has closed it too.
    if isinstance(error, ConnectionError):
        return _CLOSED
    return f"its connection broke ({error.strerror or error})"
