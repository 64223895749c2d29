"""One process group: starting the ranks of a launch, listening to them, and ending them all.

Every rank is a child of this process in one group of its own, so that one signal reaches whatever
they start. A child that is no longer waited for stays until the group has been killed, so that the
group's number cannot be taken by another.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
from pydantic import ValidationError

from bench.run import stacks
from bench.worker.job import EVENTS_VARIABLE, PARENT_VARIABLE, Event, log_file

_POLITE_S = 3.0
_STACKS_S = 1.0


@dataclass(frozen=True)
class Share:
    """Which ranks of a launch are started on this machine."""

    ranks: int
    node: int = 0
    nodes: int = 1

    @property
    def first(self) -> int:
        """The rank that is this machine's first."""
        return self.node * self.ranks

    @property
    def world(self) -> int:
        """Ranks on all machines."""
        return self.nodes * self.ranks


class Ranks(Protocol):
    """All ranks of one launch, wherever they run."""

    codes: list[int | None]
    """Exit code by rank; null: it had not ended when it was last looked at, or was ended by us."""
    ended_at: list[float | None]
    """When each was seen to have ended by itself, in seconds since the epoch; null as above."""
    lost: str | None
    """What became of a machine with which there is no connection any more; null: of none."""
    killed_for_memory: bool
    """Another machine's kernel has killed for want of memory meanwhile."""

    def listen(self, timeout_s: float) -> Iterator[Event]:
        """Yield the events that arrive within the time, at least those that are there already."""

    def ended(self) -> bool:
        """Return whether every rank has ended."""

    def failed(self) -> bool:
        """Return whether any rank has ended badly so far."""

    def ask_for_stacks(self) -> dict[int, bool]:
        """Have every rank print where its threads stand, and return whether it waits for others."""

    def kill(self) -> None:
        """End every process that this launch started."""


class Group:
    """The running ranks of one launch on this machine.

    Args:
        command: What every rank executes.
        environment: Of every rank; the rank's own place is added.
        share: Which ranks they are.
        folder: Where their output goes.
        inherited: Descriptors that every rank inherits.
    """

    lost: str | None = None
    killed_for_memory: bool = False

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        share: Share,
        folder: Path,
        inherited: Collection[int] = (),
    ) -> None:
        self._read_end, write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read_end, selectors.EVENT_READ)
        self._unread = b""
        self._folder = folder
        self.ranks = range(share.first, share.first + share.ranks)
        self.children: list[subprocess.Popen[bytes]] = []
        self.codes: list[int | None] = [None] * share.ranks
        self.ended_at: list[float | None] = [None] * share.ranks
        try:
            for local in range(share.ranks):
                passed = (write_end, *inherited)
                self.children.append(
                    _start(command, environment, share, local, folder, passed, self._leader())
                )
        except BaseException:
            self.kill()
            raise
        finally:
            os.close(write_end)

    def listen(self, timeout_s: float) -> Iterator[Event]:
        """Yield the events that arrive within the time, at least those that are there already."""
        if not self._selector.get_map():
            # Every rank has closed its end: the caller still paces its looks by this call.
            time.sleep(timeout_s)
            return
        if not self._selector.select(timeout_s):
            return
        try:
            received = os.read(self._read_end, 1 << 16)
        except BlockingIOError:
            return
        if not received:
            self._selector.unregister(self._read_end)
            return
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            # A program under test may write to any descriptor it inherits.
            with contextlib.suppress(ValidationError):
                yield Event.model_validate_json(line)

    def ended(self) -> bool:
        """Return whether every rank has ended, noting the exit codes."""
        for local, child in enumerate(self.children):
            if self.codes[local] is None and (code := _peek(child)) is not None:
                self.codes[local], self.ended_at[local] = code, time.time()
        return all(code is not None for code in self.codes)

    def failed(self) -> bool:
        """Return whether any rank has ended badly so far."""
        self.ended()
        return any(code not in (0, None) for code in self.codes)

    def ask_for_stacks(self) -> dict[int, bool]:
        """Have every rank print where its threads stand, and return whether it waits for others."""
        for child in self.children:
            if _peek(child) is None:
                child.send_signal(signal.SIGUSR1)
        # Nothing tells when a rank has finished printing; it is killed right after.
        time.sleep(_STACKS_S)
        return stacks.waiting(self._folder, self.ranks)

    def kill(self) -> None:
        """End every process that this launch started, and reap the ranks."""
        leader = self._leader()
        started = self._descendants()
        if leader is not None:
            _signal(leader, signal.SIGTERM)
            deadline = time.monotonic() + _POLITE_S
            # Exit codes from here on are our doing and are not noted.
            while self._any_alive() and time.monotonic() < deadline:
                time.sleep(0.02)
            _signal(leader, signal.SIGKILL)
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for child in self.children:
            child.wait()
        self._selector.close()
        with contextlib.suppress(OSError):
            os.close(self._read_end)

    def _any_alive(self) -> bool:
        return any(_peek(child) is None for child in self.children)

    def _leader(self) -> int | None:
        return self.children[0].pid if self.children else None

    def _descendants(self) -> list[psutil.Process]:
        # Some libraries start helpers in sessions of their own, which no group signal reaches.
        found = []
        for child in self.children:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += psutil.Process(child.pid).children(recursive=True)
        return found


def _start(
    command: list[str],
    environment: Mapping[str, str],
    share: Share,
    local: int,
    folder: Path,
    passed: tuple[int, ...],
    leader: int | None,
) -> subprocess.Popen[bytes]:
    rank = share.first + local
    place = {
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(share.world),
        "LOCAL_WORLD_SIZE": str(share.ranks),
        "GROUP_RANK": str(share.node),
        "GROUP_WORLD_SIZE": str(share.nodes),
        EVENTS_VARIABLE: str(passed[0]),
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
    }
    with log_file(folder, rank).open("wb") as log:
        return subprocess.Popen(
            command,
            env={**environment, **place},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=passed,
            process_group=leader or 0,
        )


def _peek(child: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code without reaping, so that the process group keeps its number."""
    if child.returncode is not None or sys.platform == "darwin":
        return child.poll()
    state = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if state is None:
        return None
    return state.si_status if state.si_code == os.CLD_EXITED else -state.si_status


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
