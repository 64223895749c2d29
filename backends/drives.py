"""Folders in which a launch keeps tensors in files: made, looked at, and removed.

What is kept there shall not be in memory, so that a file system that lies in memory is refused, as
is one whose files always pass through the system's cache. Torch-free.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.backends.temporary import temporary_folder, told

_MOUNTS = Path("/proc/self/mountinfo")
_IN_MEMORY = ("ramfs", "tmpfs")


@contextlib.contextmanager
def launch_folder(prefix: str, drive: str | None) -> Iterator[Path]:
    """Make a launch's folder for temporary files, and remove it with all that it kept on a drive.

    Args:
        prefix: Of its name.
        drive: `zero.nvme_path` of the case.

    Raises:
        TemporaryError: it cannot be made.
    """
    with temporary_folder(prefix) as folder:
        try:
            yield folder
        finally:
            # The ranks have made it, and may have been killed, or be writing still. What was
            # measured is worth more than an empty drive.
            kept = swap_folder(folder, drive)
            shutil.rmtree(kept, ignore_errors=True)
            if os.path.exists(kept):  # noqa: PTH110 - which raises nothing
                print(f"bench: {kept} could not be removed: do it by hand", file=sys.stderr)


def swap_folder(folder: Path, drive: str | None) -> Path:
    """Return where a launch keeps tensors in files.

    Args:
        folder: Its own, for temporary files.
        drive: A folder elsewhere, in which it has one of the same name; null: its own is used.
    """
    return folder / "kept" if drive is None else Path(drive).expanduser() / folder.name


def unusable(folder: Path) -> str | None:
    """Return why a folder cannot hold what is to leave memory; null: it can."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    try:
        descriptor, name = tempfile.mkstemp(prefix="bench-", dir=folder)
    except OSError as error:
        return f"{folder} cannot be written to: {told(error)}"
    os.close(descriptor)
    try:
        os.close(os.open(name, os.O_RDWR | getattr(os, "O_DIRECT", 0)))
    except OSError as error:
        return f"{folder} has a file system without direct access (O_DIRECT): {told(error)}"
    finally:
        Path(name).unlink()
    kind = _file_system(folder)
    return f"{folder} lies in memory ({kind})" if kind in _IN_MEMORY else None


def _file_system(folder: Path) -> str | None:
    """Return the kind of a folder's file system; null: the system does not tell."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for fields in map(str.split, mounts):
        if fields[2] == number:
            return fields[fields.index("-") + 1]
    return None
