"""Folders for temporary files: made and removed, or one message about what stands in the way."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

_ROOM = "free some space in the folder for temporary files, or name another folder with TMPDIR"
_PLACE = "name a folder that this user may write to with TMPDIR"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EROFS: _PLACE,
    errno.EACCES: _PLACE,
    errno.EPERM: _PLACE,
    errno.ENOENT: _PLACE,
    errno.ENOTDIR: _PLACE,
    errno.EAGAIN: "too many processes run: end some, or raise the limit (ulimit -u)",
    errno.ENOMEM: "too little memory is free to start a process: end others",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine: end other programs",
}


class TemporaryError(Exception):
    """There is no folder for temporary files; the message says why and what to do."""

    def __init__(self, error: OSError) -> None:
        self.reason = f"cannot make a folder for temporary files: {told(error)}"
        self.remedy = remedy(error)
        super().__init__(f"{self.reason}; {self.remedy}")


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a folder of this process's own, and remove it with all that is in it.

    Raises:
        TemporaryError: it cannot be made.
    """
    try:
        made = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        raise TemporaryError(error) from error
    with made as folder:
        yield Path(folder)


def told(error: OSError) -> str:
    """Return what the system says, with the file it says it about."""
    return f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"


def remedy(error: OSError) -> str:
    """Return what to do about a process that could not be started or given its files."""
    return _REMEDIES.get(error.errno or 0, "repair what it names, or choose another TMPDIR")
