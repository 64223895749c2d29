"""Folders for temporary files: made and removed, or one message about what stands in the way."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

_OF_ONE_RUN = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_NODEID",
)
"""The same for all ranks of a machine, and together for no others: also where a job is started anew
under its own number, and where machines share the folder for temporary files."""
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


def shared_folder(prefix: str, *words: str) -> Path:
    """Return a folder that a machine's ranks share under somebody else's launcher.

    The first to ask makes it, and every rank finds it by what it was told. A run's id may be the
    same for all runs of torchrun, so the process that started the ranks and the port they meet at
    are in the name too. Under srun each rank may have a shell of its own for a parent, and a step
    has a number. Nobody removes the folder but who knows that all are done.

    Args:
        prefix: Of its name.
        words: What tells it from others of that prefix.

    Raises:
        TemporaryError: it cannot be made.
    """
    told_all = (os.environ.get(name, "") for name in _OF_ONE_RUN)
    parent = str(os.getppid()) if "TORCHELASTIC_RUN_ID" in os.environ else ""
    digest = hashlib.sha256("\0".join([parent, *told_all, *words]).encode())
    try:
        folder = Path(tempfile.gettempdir()) / f"{prefix}{digest.hexdigest()[:16]}"
        folder.mkdir(mode=0o700, exist_ok=True)
        # Anybody may have made it first where all may write: what lies there is believed.
        if folder.lstat().st_uid != os.getuid():
            raise PermissionError(errno.EACCES, "it belongs to another user", str(folder))
    except OSError as error:
        raise TemporaryError(error) from error
    return folder


def told(error: OSError) -> str:
    """Return what the system says, with the file it says it about."""
    return f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"


def remedy(error: OSError) -> str:
    """Return what to do about a process that could not be started or given its files."""
    return _REMEDIES.get(error.errno or 0, "repair what it names, or choose another TMPDIR")
