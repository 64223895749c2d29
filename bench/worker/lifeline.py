"""Dying with the parent, and telling where one hangs; torch-free, first thing in every rank."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys

from bench.worker.job import PARENT_VARIABLE

_PR_SET_PDEATHSIG = 1


def hold() -> None:
    """Arrange to be killed when the parent dies, and to print all stacks on SIGUSR1.

    On systems without a parent-death signal only the process group kill of the parent remains.
    """
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the signal was arranged.
    if os.getppid() != int(parent):
        os._exit(1)
