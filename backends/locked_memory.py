"""How much memory this process may lock, which a limit of the system's holds down (`ulimit -l`)."""

from __future__ import annotations

import ctypes
import mmap
import resource


def limit_below(size_bytes: int) -> int | None:
    """Return the limit in bytes, where this process may not lock as much; null: it may.

    A privileged process is held to no limit: what goes beyond it is tried. Source: mlock(2).
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY or size_bytes <= limit:
        return None
    return None if _locks(limit + mmap.PAGESIZE) else limit


def _locks(size_bytes: int) -> bool:
    """Return whether so much can be locked; it is let go at once."""
    library = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(-1, size_bytes) as memory:
        first = ctypes.c_char.from_buffer(memory)
        failed = library.mlock(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size_bytes)
        )
        # A mapping that something points into cannot be closed.
        del first
    return bool(failed == 0)
