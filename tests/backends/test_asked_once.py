"""Under torchrun the first rank of a machine probes for all: no two probes meet at a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import NoReturn

import pytest

from bench.backends import asked_once
from bench.backends.base import Probe
from bench.backends.registry import import_environment
from tests.run.test_third_party import install_entry_points

FOUND = Probe(backend="toy", available=True, device_model="toy", device_count=2)
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
JEALOUS = """\
import os
import time
from pathlib import Path

from bench.backends.base import Backend, Probe


class Jealous(Backend):
    name = "jealous"

    def probe(self):
        device = Path(os.environ["JEALOUS_DEVICE"])
        try:
            device.touch(exist_ok=False)
        except FileExistsError:
            return Probe(backend=self.name, available=False, reason="busy")
        time.sleep(1.0)  # probes of other ranks, were there any, would meet it
        device.unlink()
        alone = "TORCHELASTIC_RUN_ID" not in os.environ
        return Probe(backend=self.name, available=alone, reason="took itself for a rank")

    def open(self, knobs, world):
        raise NotImplementedError
"""
ASK = """\
from bench.backends.registry import Prober

probe = Prober().probe("jealous")
print("free" if probe.available else probe.reason)
"""


def never() -> NoReturn:
    raise AssertionError("this rank asked")


@pytest.fixture
def rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("missing", ["TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"])
def test_who_is_alone_asks_and_leaves_nothing(
    rank: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    rank.delenv(missing)
    rank.setenv("LOCAL_RANK", "1")
    assert asked_once.probe("toy", lambda: FOUND, 0.0) == FOUND
    assert list(tmp_path.iterdir()) == []


def test_the_first_asks_for_all_and_the_last_to_read_cleans_up(
    rank: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rank.setenv("LOCAL_RANK", "0")
    assert asked_once.probe("toy", lambda: FOUND, 0.0) == FOUND
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    for number in ("2", "1"):
        assert folder.exists()
        rank.setenv("LOCAL_RANK", number)
        assert asked_once.probe("toy", never, 5.0) == FOUND
    assert not folder.exists()


def test_who_reads_last_may_remove_the_folder_while_it_is_looked_through(
    rank: pytest.MonkeyPatch,
) -> None:
    def removed(folder: Path, _: str) -> NoReturn:
        raise FileNotFoundError(folder)

    rank.setenv("LOCAL_RANK", "0")
    asked_once.probe("toy", lambda: FOUND, 0.0)
    rank.setattr(Path, "glob", removed)
    rank.setenv("LOCAL_RANK", "1")
    assert asked_once.probe("toy", never, 5.0) == FOUND


def test_the_answer_for_another_backend_is_none_for_this(rank: pytest.MonkeyPatch) -> None:
    rank.setenv("LOCAL_RANK", "0")
    asked_once.probe("other", lambda: FOUND, 0.0)
    rank.setenv("LOCAL_RANK", "1")
    assert asked_once.probe("toy", never, 0.2) is None


def test_a_device_that_serves_one_process_is_there_for_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "jealous_backend.py").write_text(dedent(JEALOUS), encoding="utf-8")
    points = "[bench.backends]\njealous = jealous_backend:Jealous\n"
    install_entry_points(tmp_path, "jealous", points)
    path = os.pathsep.join([str(tmp_path), import_environment()["PYTHONPATH"]])
    environment = {
        **os.environ,
        **TORCHRUN,
        "PYTHONPATH": path,
        "JEALOUS_DEVICE": str(tmp_path / "device"),
        "TMPDIR": str(tmp_path),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", ASK],
            env={**environment, "LOCAL_RANK": str(number)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    assert [child.communicate(timeout=120)[0].strip() for child in ranks] == ["free"] * 3
