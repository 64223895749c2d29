"""Where an accelerator or Slurm is to be proven, a run that skips every test is a failure."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import devices

SKIPPED = """\
import pytest

@pytest.mark.skip(reason="no device here")
def test_on_the_device():
    pass
"""
RAN = f"{SKIPPED}\ndef test_beside_it():\n    pass\n"


def run(folder: Path, tests: str, **variables: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_it.py").write_text(tests, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name != "BENCH_DEVICE_REQUIRED"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("tests", "variables", "code"),
    [
        (SKIPPED, {}, 0),
        (SKIPPED, {"BENCH_DEVICE_REQUIRED": "1"}, 1),
        (RAN, {"BENCH_DEVICE_REQUIRED": "1"}, 0),
    ],
)
def test_all_skipped_fails_only_where_a_device_is_required(
    tmp_path: Path, tests: str, variables: dict[str, str], code: int
) -> None:
    done = run(tmp_path, tests, **variables)
    assert done.returncode == code, done.stdout
    said = "every test was skipped: what they are there to show has not been found"
    assert (said in done.stdout) == (code == 1)


@pytest.mark.parametrize("name", ["cuda", "neuron-device{,-native}", "slurm"])
def test_an_environment_that_needs_what_few_machines_have_demands_it(name: str) -> None:
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(Path(__file__).parents[1] / "tox.ini", encoding="utf-8")
    assert "BENCH_DEVICE_REQUIRED = 1" in tox[f"testenv:{name}"]["set_env"]


@pytest.mark.parametrize(
    ("files", "nvidia", "neuron"),
    [
        ([], False, False),
        (["nvidiactl", "neuron"], False, False),
        (["nvidia3"], True, False),
        (["dxg"], True, False),
        (["neuron1"], False, True),
    ],
)
def test_a_device_of_any_number_is_one(
    tmp_path: Path, files: list[str], nvidia: bool, neuron: bool
) -> None:
    (tmp_path / "dev").mkdir()
    for name in files:
        (tmp_path / "dev" / name).touch()
    assert (devices.has_nvidia(tmp_path), devices.has_neuron(tmp_path)) == (nvidia, neuron)
