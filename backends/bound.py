"""Under somebody else's launcher: the CPUs to which it has bound each rank of this machine.

A rank that is bound sees its own CPUs alone. What it computes with, and what the row says of the
processor, follows from those of all. Torch-free.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable

from bench.backends import host
from bench.backends.placed import Placed
from bench.backends.temporary import shared_folder

_WAIT_S = 60.0
"""Ranks start together; whoever has not come by then is missed by others too."""
_POLL_S = 0.05


def tell(
    told: Placed, timeout_s: float = _WAIT_S, machine: Callable[[], int | None] = os.cpu_count
) -> None:
    """Have this process, and those it starts, know the CPUs of all ranks of this machine.

    A rank that may run on all CPUs of the machine waits for nobody. Where the others do not answer,
    or all have the same CPUs, nothing is told: they share them.

    Args:
        told: This process among the ranks.
        timeout_s: How long to wait for the others.
        machine: How many CPUs the machine has.

    Raises:
        TemporaryError: there is nowhere to write.
    """
    os.environ.pop(host.CPUS_OF_RANKS_VARIABLE, None)
    own, rank, size = host.cpus_allowed(), told.world.local_rank, told.local_size
    if size == 1:
        return
    folder = shared_folder("bench-cpus-")
    partial = folder / f".{rank}.partial"
    partial.write_text(",".join(map(str, sorted(own))), encoding="ascii")
    partial.replace(folder / f"cpus-{rank}")
    deadline = time.monotonic() + (0.0 if len(own) == machine() else timeout_s)
    while not (all_there := len(list(folder.glob("cpus-*"))) == size):
        if time.monotonic() >= deadline:
            break
        # The ranks are no children of one another: a file is all that tells.
        time.sleep(_POLL_S)
    if all_there:
        cpus = [(folder / f"cpus-{other}").read_text(encoding="ascii") for other in range(size)]
        if len(set(cpus)) > 1:
            os.environ[host.CPUS_OF_RANKS_VARIABLE] = ";".join(cpus)
    (folder / f"read-{rank}").touch()
    # Who reads last may remove it while it is looked through here.
    with contextlib.suppress(FileNotFoundError):
        if len(list(folder.glob("read-*"))) == size:
            shutil.rmtree(folder, ignore_errors=True)
