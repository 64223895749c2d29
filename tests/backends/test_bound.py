"""Ranks that a launcher binds to CPUs of their own: what they compute with, and what a row says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.backends import bound, host
from bench.backends.placed import placed
from bench.scenarios.schema import Knobs

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
TWO = Knobs(processes=2)
RANK = """\
import sys
from bench.backends import bound, host
from bench.backends.placed import placed
from bench.scenarios.schema import Knobs

own = frozenset(map(int, sys.argv[1].split(",")))
host.cpus_allowed = lambda: own
bound.tell(placed(), 60.0, lambda: 64)
print(host.threads_per_rank(Knobs(processes=2)), host.processor().rpartition(", ")[2])
"""


def ranks(tmp_path: Path, *cpus: str) -> list[str]:
    """Return what two ranks with these CPUs compute with, and what they call the processor."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, own],
            env={**os.environ, **TORCHRUN, "LOCAL_RANK": str(rank), "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, own in enumerate(cpus)
    ]
    return [child.communicate(timeout=120)[0].strip() for child in children]


def test_a_rank_keeps_all_cpus_that_it_alone_is_bound_to(tmp_path: Path) -> None:
    assert ranks(tmp_path, "0,1,2,3", "4,5,6,7") == ["4 8 CPUs"] * 2
    assert list(tmp_path.iterdir()) == []


def test_ranks_with_the_same_cpus_share_them(tmp_path: Path) -> None:
    assert ranks(tmp_path, "0,1,2,3", "0,1,2,3") == ["2 4 CPUs"] * 2


@pytest.mark.parametrize(
    ("own", "threads"), [("0,1,2,3", 2), ("8,9,10,11", 2), ("12,13", 2), ("3,8", 1)]
)
def test_cpus_are_shared_with_those_who_are_bound_to_some_of_the_same(
    monkeypatch: pytest.MonkeyPatch, own: str, threads: int
) -> None:
    """As where ranks are bound to the processors of a machine, two ranks to each."""
    told = "0,1,2,3;0,1,2,3;8,9,10,11;8,9,10,11;12,13"
    monkeypatch.setenv(host.CPUS_OF_RANKS_VARIABLE, told)
    monkeypatch.setattr(host, "cpus_allowed", lambda: frozenset(map(int, own.split(","))))
    assert host.threads_per_rank(Knobs(processes=5)) == threads
    assert host.cpus_visible() == 10


class TestAlone:
    @pytest.fixture(autouse=True)
    def _first_of_two(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        for name, value in TORCHRUN.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(host.CPUS_OF_RANKS_VARIABLE, "0;1")
        monkeypatch.setattr(host, "cpus_allowed", lambda: frozenset({0, 1}))

    def test_a_rank_of_all_cpus_waits_for_nobody(self) -> None:
        told = placed()
        assert told is not None
        begin = time.monotonic()
        bound.tell(told, 60.0, lambda: 2)
        assert time.monotonic() - begin < 5
        assert host.threads_per_rank(TWO) == 1

    def test_what_others_do_not_tell_in_time_is_not_known(self) -> None:
        told = placed()
        assert told is not None
        bound.tell(told, 0.2, lambda: 64)
        assert host.CPUS_OF_RANKS_VARIABLE not in os.environ
        assert (host.threads_per_rank(TWO), host.cpus_visible()) == (1, 2)

    def test_who_reads_last_may_remove_the_folder_while_it_is_looked_through(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told, looked_through = placed(), Path.glob
        assert told is not None

        def removed(folder: Path, pattern: str) -> Iterator[Path]:
            if pattern == "read-*":
                raise FileNotFoundError(folder)
            return looked_through(folder, pattern)

        monkeypatch.setattr(Path, "glob", removed)
        bound.tell(told, 0.0, lambda: 64)
        assert host.threads_per_rank(TWO) == 1

    def test_a_single_rank_has_nobody_to_ask(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
        told = placed()
        assert told is not None
        bound.tell(told)
        assert list(tmp_path.iterdir()) == []
