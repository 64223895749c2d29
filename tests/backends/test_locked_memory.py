"""What a process may lock, of a process that is held to a limit and of one that is not."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from bench.backends import locked_memory

LIMIT = 64 * 1024
ASK = f"""
import os, resource
from bench.backends import locked_memory
resource.setrlimit(resource.RLIMIT_MEMLOCK, ({LIMIT}, {LIMIT}))
if os.getuid() == 0:
    os.setuid(65534)
print(locked_memory.limit_below({LIMIT}), locked_memory.limit_below({LIMIT} + 1))
"""


def test_a_limit_is_told_to_whom_it_holds() -> None:
    told = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["None", str(LIMIT)]


def test_nobody_is_held_to_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert locked_memory.limit_below(2**40) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only who is privileged is held to none")
def test_who_is_privileged_is_asked_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (LIMIT, LIMIT))
    may = locked_memory._locks(LIMIT + 4096)
    assert locked_memory.limit_below(2**40) == (None if may else LIMIT)
