"""Whether DeepSpeed can keep tensors in files here, and the building of what does.

Its operation for that, async_io, is compiled when it is first used, unless it was installed so.
Importing DeepSpeed takes seconds: the probe looks without that, and the worker asks DeepSpeed.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

_DEVICE = "DS_ACCELERATOR"
_BUILT_TOGETHER = ("pin_memory", "async_io")
_LIBAIO = (
    "libaio is not found: install it with its headers (libaio-dev on Debian and Ubuntu, "
    "libaio-devel where packages are RPMs), or say in CFLAGS and LDFLAGS where it lies"
)
_TOOLKIT = (
    "torch finds no CUDA toolkit, against which it is built where torch sees a GPU: install the "
    "one of torch's CUDA version, and name it with CUDA_HOME"
)


def missing(device_type: str) -> str | None:
    """Return what is seen to be missing of what builds async_io, with its remedy.

    Null: nothing, or DeepSpeed itself is not installed, which is told elsewhere. That libaio is
    missing is told by `lacks_libaio`, since only a compiler knows where it looks.

    Args:
        device_type: Torch's, of the devices that it would be used with.
    """
    package = importlib.util.find_spec("deepspeed")
    if package is None or _installed(package):
        return None
    compiler = os.environ.get("CXX", "c++")
    # It may be called through another program, or with options.
    if shutil.which((compiler.split() or [""])[0]) is None:
        return f"no C++ compiler is found ({compiler}): install one, or name it with CXX"
    if shutil.which("ninja") is None:
        return "ninja is not found: pip install ninja"
    return _TOOLKIT if device_type == "cuda" and _no_toolkit() else None


def lacks_libaio(device_type: str) -> str | None:
    """Return the remedy where DeepSpeed finds no libaio to build it with; null: it does.

    Imports DeepSpeed, which has the compiler build a program with it.

    Args:
        device_type: Torch's, of the devices that it would be used with.
    """
    told = os.environ.get(_DEVICE)
    os.environ[_DEVICE] = device_type
    try:
        from deepspeed.git_version_info import installed_ops
        from deepspeed.ops.op_builder import AsyncIOBuilder

        if installed_ops.get(AsyncIOBuilder.NAME):
            return None
        return None if AsyncIOBuilder().is_compatible(verbose=False) else _LIBAIO
    finally:
        os.environ.pop(_DEVICE)
        if told is not None:
            os.environ[_DEVICE] = told


def load(device_type: str) -> str | None:
    """Have DeepSpeed build it, or load what it has built before; return why that fails.

    Args:
        device_type: Torch's, of the devices that it is used with.
    """
    try:
        if lacks := lacks_libaio(device_type):
            return lacks
        from deepspeed.ops.op_builder import AsyncIOBuilder

        with _alone():
            AsyncIOBuilder().load(verbose=False)
    except Exception as error:  # where a toolkit is missing or another, it has errors of its own
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"it cannot be built or loaded: {first_line}"
    return None


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Build without the mark of a launch that was killed, for which older torch waits forever.

    Before 2.15 a file marks a folder in which torch builds, whether or not somebody is at it. Ranks
    and launches of ours take turns by a lock of the system's, as torch does since.
    """
    from torch.utils import cpp_extension

    if not hasattr(cpp_extension, "FileBaton"):
        yield
        return
    folders = [Path(cpp_extension._get_build_directory(name, False)) for name in _BUILT_TOGETHER]
    with (folders[0].parent / "bench.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for folder in folders:
            (folder / "lock").unlink(missing_ok=True)
        yield


def _installed(package: ModuleSpec) -> bool:
    """Return whether it was built when the package was installed."""
    folders = package.submodule_search_locations or []
    return any(list(Path(folder).glob("ops/aio/async_io_op*")) for folder in folders)


def _no_toolkit() -> bool:
    """Return whether torch is built for CUDA, and finds none of its toolkits."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    return torch.version.cuda is not None and CUDA_HOME is None
