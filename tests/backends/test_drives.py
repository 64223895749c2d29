"""Folders on a drive in which a launch keeps tensors: one each, removed, and not in memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.backends import drives
from bench.backends.drives import launch_folder, swap_folder, unusable


def test_a_launch_keeps_files_in_its_own_folder_unless_a_drive_is_named(tmp_path: Path) -> None:
    own = tmp_path / "bench-launch-1"
    assert swap_folder(own, None).parent == own
    assert swap_folder(own, "/drive") == Path("/drive/bench-launch-1")


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_launch_left_on_a_drive_is_removed_with_its_folder(
    tmp_path: Path, killed: bool
) -> None:
    (tmp_path / "of the user").touch()
    folder = Path()
    try:
        with launch_folder("bench-launch-", str(tmp_path)) as folder:
            kept = swap_folder(folder, str(tmp_path))
            (kept / "rank0").mkdir(parents=True)
            (kept / "rank0" / "weights.swp").write_bytes(b"1")
            if killed:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["of the user"]


def test_what_cannot_be_removed_is_said_and_throws_no_launch_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def written_to_still(_: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")

    monkeypatch.setattr(drives, "shutil", SimpleNamespace(rmtree=written_to_still))
    with launch_folder("bench-launch-", str(tmp_path)) as folder:
        kept = swap_folder(folder, str(tmp_path))
        kept.mkdir()
    assert capsys.readouterr().err == f"bench: {kept} could not be removed: do it by hand\n"


def test_a_launch_that_kept_nothing_leaves_the_drive_as_it_is(tmp_path: Path) -> None:
    with launch_folder("bench-launch-", str(tmp_path / "nowhere")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_or_takes_no_files_is_of_no_use(tmp_path: Path) -> None:
    assert unusable(tmp_path / "x") == f"there is no folder {tmp_path / 'x'}"
    # Nobody may make files there, root included.
    if Path("/proc/self").is_dir():
        assert "/proc/self cannot be written to" in str(unusable(Path("/proc/self")))


@pytest.mark.parametrize("kind", ["ext4", "tmpfs", "ramfs"])
def test_a_folder_whose_files_are_in_memory_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "drive"
    folder.mkdir()
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 0:99 / /elsewhere rw - tmpfs none rw\n"
        f"22 1 {number} / {folder} rw,relatime shared:1 - {kind} /dev/vda rw\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(drives, "_MOUNTS", mounts)
    if (found := unusable(folder)) is not None and "O_DIRECT" in found:
        pytest.skip(found)
    assert found == (None if kind == "ext4" else f"{folder} lies in memory ({kind})")
    assert list(folder.iterdir()) == []


def test_a_folder_in_memory_is_known_on_a_real_system() -> None:
    folder = Path("/dev/shm")  # noqa: S108 - nothing is kept there
    if not folder.is_dir() or drives._file_system(folder) != "tmpfs":
        pytest.skip("it is no tmpfs here")
    found = str(unusable(folder))
    assert "lies in memory (tmpfs)" in found or "O_DIRECT" in found
