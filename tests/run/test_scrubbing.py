"""What is recorded names no folder, host or user of the machine, and can still be read."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench
from bench.run.scrubbing import scrub, shareable_path


@pytest.fixture(autouse=True)
def _a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "torchbox")
    monkeypatch.setenv("LOGNAME", "mira")


def test_folders_of_this_machine_become_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/srv/elsewhere")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    code = Path(bench.__file__).absolute()
    said = scrub(f"{work}/a.py /srv/elsewhere/b.py /srv/elsewhere2/c.py {code}")
    assert said == "<cwd>/a.py <home>/b.py <path>/c.py <bench>/bench/__init__.py"


@pytest.mark.parametrize(
    ("said", "recorded"),
    [
        ('File "/opt/py/lib/timm/vit.py", line 12, in f', 'File "<path>/vit.py", line 12, in f'),
        ('File "/opt/My Data/vit.py", line 12', 'File "<path>/vit.py", line 12'),
        ("open('/mnt/big disk/set one/')", "open('<path>/set one/')"),
        ("at /pytorch/c10/core/alloc.cpp:118]", "at <path>/alloc.cpp:118]"),
        ("path=/scratch/a:/scratch/b,/scratch/c/d.so", "path=<path>/a:<path>/b,<path>/d.so"),
        ("g++ x.cpp -I/opt/include/a -L/opt/lib", "g++ x.cpp -I<path>/a -L<path>/lib"),
        ("file:///scratch/x/rendezvous", "file://<path>/rendezvous"),
        ("[Errno 2]: '/scratch/x'", "[Errno 2]: '<path>/x'"),
        ("/home/vera and /home/vera/notes/a.txt", "<path> and <path>/a.txt"),
    ],
)
def test_any_other_absolute_path_keeps_its_last_name_only(said: str, recorded: str) -> None:
    assert scrub(said) == recorded


@pytest.mark.parametrize(
    "said",
    [
        "https://example.org/docs/errors.html and http://[::1]:80/a/b",
        "cannot read /proc/self/status, /sys/fs/cgroup/memory.max or /dev/shm/x",
        "torch/csrc/autograd/engine.cpp:12 ./a/b ../c/d ~/e/f",
        "1/2 of 3/4/5 images/s, a and/or b, 10 / 2 / 5",
        "the root folder / and /tmp",
        "<cwd>/a/b ${HOME}/c/d $HOME/e/f",
    ],
)
def test_what_is_no_private_path_stays_as_it_was(said: str) -> None:
    assert scrub(said) == said


@given(st.lists(st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True), min_size=3, max_size=6))
def test_no_folder_of_a_path_outside_the_system_survives(parts: list[str]) -> None:
    path = "/" + "/".join(["scratch", *parts])
    assert scrub(f"cannot open {path}: no") == f"cannot open <path>/{parts[-1]}: no"


def test_host_and_user_become_words_but_not_inside_others() -> None:
    assert scrub("mira@torchbox: miracle on torchbox2") == "<user>@<host>: miracle on torchbox2"


@pytest.mark.parametrize("name", ["root", "user", "Admin", "ubuntu", "localhost", "bob"])
def test_a_short_or_common_name_is_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: name)
    monkeypatch.setenv("LOGNAME", name)
    said = f"the {name} node of the graph; {name}: 1"
    assert scrub(said) == said


@pytest.mark.parametrize(
    ("path", "recorded"),
    [
        ("mine/zero.json", "mine/zero.json"),
        ("~/zero.json", "~/zero.json"),
        ("/srv/here/mine/zero.json", "mine/zero.json"),
        ("/srv/elsewhere/mine/zero.json", "~/mine/zero.json"),
        ("/srv/elsewhere2/zero.json", "/srv/elsewhere2/zero.json"),
        ("/shared/mira/zero.json", "<path>/zero.json"),
        ("/home/ada/zero.json", "<path>/zero.json"),
        ("~ada/zero.json", "<path>/zero.json"),
    ],
)
def test_a_file_is_named_so_that_it_can_be_found_again_and_names_nobody(
    monkeypatch: pytest.MonkeyPatch, path: str, recorded: str
) -> None:
    monkeypatch.setenv("HOME", "/srv/elsewhere")
    monkeypatch.setattr(Path, "cwd", lambda: Path("/srv/here"))
    assert shareable_path(path) == recorded


def test_below_the_root_folder_nothing_is_relative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path("/"))
    assert shareable_path("/home/ada/zero.json") == "<path>/zero.json"
