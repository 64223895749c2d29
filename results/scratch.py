"""Finished launches, kept until the record of their run is written.

Each session appends to files of its own and holds a lock for as long as it lives; the kernel drops
the lock when it dies, however it dies, and its leftovers may then be recovered. This module knows
launches and the folder, and nothing of why a run ended.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
from pydantic import ValidationError

from bench.results.record import Launch
from bench.results.store import Problem, refusing, sync_folder

SCRATCH = "scratch"
_OWNER = "owner.lock"
_NO_LOCKS = {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK}


class Scratch:
    """The scratch files below one results folder, as one process sees them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / SCRATCH
        self.problems: list[Problem] = []
        """Lines that `recover` had to drop."""
        self._locks: dict[Path, int] = {}
        self._own: set[Path] = set()
        self._recovered: dict[str, list[Path]] = {}

    def keep(self, session: str, fingerprint: str, launch: Launch) -> None:
        """Append a finished launch; once this returns, a crash of the machine does not lose it.

        Raises:
            StoreError: it cannot be written; what was kept before is still whole.
        """
        line = orjson.dumps(
            launch.model_dump(mode="json", by_alias=True), option=orjson.OPT_APPEND_NEWLINE
        )
        path = self._file(session, fingerprint)
        with refusing(self.root):
            self._claim(path.parent)
            new = not path.exists()
            _append_durably(path, line)
            if new:
                sync_folder(path.parent)

    def recover(self, fingerprint: str) -> list[Launch]:
        """Return the launches that sessions which are gone left of a run, oldest session first.

        The files stay, held by this process, until `discard` says that the record is written.
        """
        launches: list[Launch] = []
        if not self.folder.is_dir():
            return launches
        known = self._recovered.setdefault(fingerprint, [])
        for session in sorted(self.folder.iterdir()):
            path = session / f"{fingerprint}.jsonl"
            ours = session in self._own or path in known
            if not ours and path.is_file() and self._hold(session):
                launches += self._read(path)
                known.append(path)
        return sorted(launches, key=lambda launch: launch.started)

    def discard(self, session: str, fingerprint: str) -> None:
        """Forget the launches of a run whose record is written, recovered ones included."""
        for path in [self._file(session, fingerprint), *self._recovered.pop(fingerprint, [])]:
            with refusing(self.root):
                path.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the folders of sessions that are gone, or are this process's, and left nothing."""
        if not self.folder.is_dir():
            return
        for session in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            held = session in self._locks
            if self._hold(session):
                empty = all(path.name == _OWNER for path in session.iterdir())
                if empty:
                    _remove(session)
                if empty or not held:
                    self._let_go(session)
        # Fails as long as some session is left, which is what it is for.
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        """Let go of every session; what they kept stays."""
        for session in list(self._locks):
            self._let_go(session)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _file(self, session: str, fingerprint: str) -> Path:
        return self.folder / session / f"{fingerprint}.jsonl"

    def _claim(self, session: Path) -> None:
        while session not in self._own:
            session.mkdir(parents=True, exist_ok=True)
            handle = os.open(session / _OWNER, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A sweep may have removed the empty folder before the lock was there.
                if not os.fstat(handle).st_nlink:
                    os.close(handle)
                    continue
            except OSError as error:
                # Where nothing can be locked, nothing is ever taken over either.
                if error.errno not in _NO_LOCKS:
                    os.close(handle)
                    raise
            self._locks[session] = handle
            self._own.add(session)

    def _hold(self, session: Path) -> bool:
        if session in self._locks:
            return True
        try:
            handle = os.open(session / _OWNER, os.O_RDWR)
        except OSError:
            # Without an owner's file it is not a session, or not one of this user's.
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._locks[session] = handle
        return True

    def _let_go(self, session: Path) -> None:
        os.close(self._locks.pop(session))
        self._own.discard(session)

    def _read(self, path: Path) -> list[Launch]:
        launches = []
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                launches.append(Launch.model_validate_json(line))
            except ValidationError:
                self.problems.append(Problem(path, f"line {number} was cut short and is dropped"))
        return launches


def _remove(session: Path) -> None:
    # Another process may sweep the same folder at the same moment.
    with contextlib.suppress(OSError):
        (session / _OWNER).unlink(missing_ok=True)
        session.rmdir()


def _append_durably(path: Path, line: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        whole = os.fstat(handle).st_size
        try:
            view = memoryview(line)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        except OSError:
            # Half a line would spoil the next one too.
            os.ftruncate(handle, whole)
            raise
    finally:
        os.close(handle)
