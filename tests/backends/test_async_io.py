"""Whether DeepSpeed can keep tensors in files, asked of a DeepSpeed that answers as told."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.backends import async_io
from bench.backends.cpu import CpuBackend

pytestmark = pytest.mark.torch

Plant = Callable[..., None]


@pytest.fixture
def deepspeed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Plant:
    """Return what puts a DeepSpeed in place that says this of its operation."""

    def plant(
        compatible: bool | Exception = True,
        installed: bool = False,
        load: Callable[[], None] = lambda: None,
    ) -> None:
        class Builder:
            NAME = "async_io"

            def is_compatible(self, verbose: bool) -> bool:
                assert os.environ["DS_ACCELERATOR"] == "cpu"
                if isinstance(compatible, Exception):
                    raise compatible
                return compatible

            def load(self, verbose: bool) -> None:
                load()

        parts: dict[str, dict[str, Any]] = {
            "deepspeed": {},
            "deepspeed.git_version_info": {"installed_ops": {"async_io": installed}},
            "deepspeed.ops": {},
            "deepspeed.ops.op_builder": {"AsyncIOBuilder": Builder},
        }
        for name, values in parts.items():
            module = types.ModuleType(name)
            module.__dict__.update(values, __path__=[str(tmp_path)])
            module.__spec__ = importlib.util.spec_from_loader(name, None)
            assert module.__spec__ is not None
            module.__spec__.submodule_search_locations = [str(tmp_path)]
            monkeypatch.setitem(sys.modules, name, module)
        if installed:
            (tmp_path / "ops" / "aio").mkdir(parents=True)
            (tmp_path / "ops" / "aio" / "async_io_op.so").touch()
        monkeypatch.setenv("DS_ACCELERATOR", "cuda")
        monkeypatch.setenv("CXX", f"{sys.executable} -I")
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
        monkeypatch.setattr(shutil, "which", lambda name: None if " " in name else name)

    return plant


def test_where_it_can_be_built_nothing_is_missing(deepspeed: Plant) -> None:
    """A compiler that is called with options, or through another program, is one."""
    deepspeed()
    assert async_io.missing("cpu") is None
    assert async_io.lacks_libaio("cpu") is None
    assert os.environ["DS_ACCELERATOR"] == "cuda"


def test_where_libaio_is_missing_its_packages_are_named(deepspeed: Plant) -> None:
    deepspeed(compatible=False)
    found = str(async_io.load("cpu"))
    assert "libaio is not found" in found
    assert "libaio-dev on Debian" in found
    assert "CFLAGS and LDFLAGS" in found


def test_what_would_compile_it_is_named_where_it_is_missing(
    deepspeed: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    deepspeed()
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "ninja" else name)
    assert async_io.missing("cpu") == "ninja is not found: pip install ninja"
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = async_io.missing("cpu")
    assert found == (
        "no C++ compiler is found (no-such-compiler): install one, or name it with CXX"
    )


@pytest.mark.parametrize(
    ("cuda", "home", "lacks"),
    [("13.0", None, True), ("13.0", "/usr/local/cuda", False), (None, None, False)],
)
def test_a_toolkit_is_missing_where_torch_is_built_for_one(
    deepspeed: Plant,
    monkeypatch: pytest.MonkeyPatch,
    cuda: str | None,
    home: str | None,
    lacks: bool,
) -> None:
    deepspeed()
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", home)
    assert ("no CUDA toolkit" in str(async_io.missing("cuda"))) is lacks
    assert async_io.missing("cpu") is None


def test_one_that_was_installed_with_it_needs_no_compiler(
    deepspeed: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    deepspeed(compatible=False, installed=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert async_io.missing("cpu") is None
    assert async_io.lacks_libaio("cpu") is None


class ToolkitError(Exception):
    """As DeepSpeed raises where a toolkit is another than torch's."""


@pytest.mark.parametrize(
    ("error", "said"),
    [(ImportError("no distutils\nand more"), "no distutils"), (ToolkitError(), "ToolkitError")],
)
def test_one_that_cannot_be_built_is_told(deepspeed: Plant, error: Exception, said: str) -> None:
    def fail() -> None:
        raise error

    deepspeed(load=fail)
    assert async_io.load("cpu") == f"it cannot be built or loaded: {said}"
    deepspeed(compatible=error)
    assert async_io.load("cpu") == f"it cannot be built or loaded: {said}"
    assert os.environ["DS_ACCELERATOR"] == "cuda"


@pytest.mark.parametrize("waits_for_a_mark", [True, False])
def test_older_torch_builds_without_the_mark_of_one_that_was_killed(
    deepspeed: Plant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, waits_for_a_mark: bool
) -> None:
    """Which waits for that mark to go, and it never does; of newer torch the file is a lock."""
    if waits_for_a_mark:
        monkeypatch.setattr("torch.utils.cpp_extension.FileBaton", object, raising=False)
    else:
        monkeypatch.delattr("torch.utils.cpp_extension.FileBaton", raising=False)
    built = tmp_path / "built"
    mark = built / "async_io" / "lock"
    mark.parent.mkdir(parents=True)
    mark.touch()
    seen = []
    other = (
        "import fcntl, sys\n"
        "with open(sys.argv[1], 'a') as held: fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    )

    def build() -> None:
        command = [sys.executable, "-c", other, str(built / "bench.lock")]
        alone = subprocess.run(command, capture_output=True, check=False).returncode == 1
        seen.append((mark.exists(), alone))

    deepspeed(load=build)
    assert async_io.load("cpu") is None
    assert seen == [(not waits_for_a_mark, waits_for_a_mark)]


def test_the_cpus_probe_asks_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_io, "missing", lambda device_type: f"asked for {device_type}")
    assert CpuBackend().probe().facts["async_io"] == "asked for cpu"


def test_a_probe_does_not_import_deepspeed() -> None:
    """Which takes seconds, of every command."""
    look = "from bench.backends import registry; registry.get('cpu').probe()"
    tell = "import sys; print('torch' in sys.modules, 'deepspeed' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", f"{look}; {tell}"], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["True", "False"]


def test_where_deepspeed_is_not_installed_that_is_told_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert async_io.missing("cpu") is None
