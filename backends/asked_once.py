"""Under torchrun or srun: what a machine's first rank finds out, for all ranks of that machine.

Every rank is this very program and would probe by itself, all at the same time. A device that
serves one process would be there for the first of them alone. Torch-free.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from bench.backends.base import Probe
from bench.backends.placed import placed
from bench.backends.temporary import shared_folder

_ANSWER = "probe.json"
_POLL_S = 0.05


def probe(name: str, ask: Callable[[], Probe], timeout_s: float) -> Probe | None:
    """Return what was found of a backend; null: the first rank has not answered in time.

    Args:
        name: Of the backend.
        ask: Asks it; called by the first rank of a machine, and where there is one only.
        timeout_s: How long the others wait.

    Raises:
        TemporaryError: there is nowhere for the answer.
    """
    told = placed()
    if told is None or told.local_size == 1:
        return ask()
    folder = shared_folder("bench-probe-", name)
    rank, others = told.world.local_rank, told.local_size - 1
    if rank == 0:
        found = ask()
        partial = folder / f".{_ANSWER}.partial"
        partial.write_text(found.model_dump_json(), encoding="utf-8")
        partial.replace(folder / _ANSWER)
        return found
    deadline = time.monotonic() + timeout_s
    while not (folder / _ANSWER).exists():
        if time.monotonic() > deadline:
            return None
        # The ranks are no children of one another: a file is all that tells.
        time.sleep(_POLL_S)
    answer = Probe.model_validate_json((folder / _ANSWER).read_bytes())
    _leave(folder, rank, others)
    return answer


def _leave(folder: Path, rank: int, others: int) -> None:
    """Note that this rank has read; the last one to read removes the folder."""
    (folder / f"read-{rank}").touch()
    # Who reads last may remove it while it is looked through here.
    with contextlib.suppress(FileNotFoundError):
        if sum(1 for _ in folder.glob("read-*")) == others:
            shutil.rmtree(folder, ignore_errors=True)
