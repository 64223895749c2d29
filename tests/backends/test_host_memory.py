"""The resident memory of this process, and a peak that begins where it is reset."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.backends import host

MIB = 2**20
CAN_RESET = Path("/proc/self/clear_refs").exists()
PEAKS = f"""
from bench.backends import host
MIB = {MIB}

def touched(mib):
    block = bytearray(mib * MIB)
    block[::4096] = b"x" * len(block[::4096])
    return block

found = [host.rss_bytes()]
touched(200)
found.append(host.peak_rss_bytes())
assert host.reset_peak_rss()
found += [host.peak_rss_bytes(), host.rss_bytes()]
touched(50)
found += [host.peak_rss_bytes(), host.rss_bytes()]
print(*found)
"""


@pytest.mark.skipif(not CAN_RESET, reason="this system does not let a process reset its peak")
def test_the_peak_is_that_since_the_reset() -> None:
    child = subprocess.run(
        [sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True, timeout=60
    )
    start, first, reset, before, second, after = map(int, child.stdout.split())
    assert first >= start + 199 * MIB
    assert reset <= first - 150 * MIB
    assert before + 45 * MIB <= second <= before + 80 * MIB
    assert after <= second - 45 * MIB


def test_where_the_peak_cannot_be_reset_that_is_told(tmp_path: Path) -> None:
    assert not host.reset_peak_rss(tmp_path / "no-such-process")
    (tmp_path / "clear_refs").mkdir()
    assert not host.reset_peak_rss(tmp_path)


def test_a_reset_writes_what_resets_the_peak_and_nothing_else(tmp_path: Path) -> None:
    assert host.reset_peak_rss(tmp_path)
    assert (tmp_path / "clear_refs").read_text(encoding="ascii") == "5"


def test_the_peak_is_read_from_the_status_of_the_process(tmp_path: Path) -> None:
    assert host.peak_rss_bytes(tmp_path) is None
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t 9000 kB\nVmHWM:\t 1234 kB\n", encoding="ascii")
    assert host.peak_rss_bytes(tmp_path) == 1234 * 1024
    status.write_text("Name:\tpython\n", encoding="ascii")
    assert host.peak_rss_bytes(tmp_path) is None


def test_what_is_held_is_without_mapped_files_and_with_what_is_swapped_out(tmp_path: Path) -> None:
    (tmp_path / "status").write_text(
        "VmRSS: 700 kB\nRssAnon: 300 kB\nRssFile: 380 kB\nRssShmem: 20 kB\nVmSwap: 7 kB\n",
        encoding="ascii",
    )
    assert host.anonymous_bytes(tmp_path) == 327 * 1024


@pytest.mark.parametrize("status", [None, "Name:\tpython\n"], ids=["no /proc", "an old kernel"])
def test_elsewhere_it_is_the_resident_memory(status: str | None, tmp_path: Path) -> None:
    if status is not None:
        (tmp_path / "status").write_text(status, encoding="ascii")
    assert host.anonymous_bytes(tmp_path) == pytest.approx(host.rss_bytes(), rel=0.05)


FILE_PAGES = f"""
import mmap, pathlib, sys
from bench.backends import host
path = pathlib.Path(sys.argv[1])
path.write_bytes(b"x" * 64 * {MIB})
with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
    before, resident = host.anonymous_bytes(), host.rss_bytes()
    touched = sum(mapped[::4096])
    print(host.anonymous_bytes() - before, host.rss_bytes() - resident)
"""


@pytest.mark.skipif(not CAN_RESET, reason="this system does not tell the parts of a process")
def test_pages_of_a_mapped_file_are_not_held(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", FILE_PAGES, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    held, resident = map(int, child.stdout.split())
    assert held < 8 * MIB
    assert resident > 56 * MIB
