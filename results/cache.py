"""Figures that can be computed again at any time, kept below the results folder by their key.

A file appears whole under its name or not at all, so any number of runs share a cache without
locks. Deleting the folder costs time and nothing else. This module does not know what it keeps.
"""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

CACHE = "cache"


class Cache:
    """One kind of figures in the cache of a results folder.

    Args:
        root: The results folder.
        kind: Name of the subfolder.
    """

    def __init__(self, root: Path, kind: str) -> None:
        self.folder = root / CACHE / kind

    def get(self, key: str) -> bytes | None:
        """Return what was kept under the key; null: nothing that can be read."""
        try:
            return self._file(key).read_bytes()
        except OSError:
            return None

    def put(self, key: str, content: bytes) -> None:
        """Keep the content under the key, in place of what was there.

        Where nothing can be written nothing is kept: the next run then computes it again.
        """
        path = self._file(key)
        partial = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(content)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.json"
