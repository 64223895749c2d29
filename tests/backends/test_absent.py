"""CUDA without its device: the probe says what is here and what to do."""

from __future__ import annotations

import ctypes.util
import importlib.util
from pathlib import Path

import pytest

from bench.backends.base import Backend, Probe
from bench.backends.cuda import CudaBackend

SOME_LIBRARY = ctypes.util.find_library("c") or "libc.so.6"
NO_LIBRARY = "libno-such-driver.so.1"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def unavailable(backend: Backend) -> Probe:
    probe = backend.probe()
    assert not probe.available
    assert probe.backend == backend.name
    assert probe.reason
    assert probe.remedy
    assert "\n" not in probe.reason + probe.remedy
    return probe


def test_without_a_driver_cuda_says_so(tmp_path: Path) -> None:
    probe = unavailable(CudaBackend(tmp_path, NO_LIBRARY))
    assert probe.reason == "no NVIDIA driver or device is visible here"
    assert "nvidia-smi" in (probe.remedy or "")


def test_a_driver_without_a_device_is_told_apart(tmp_path: Path) -> None:
    probe = unavailable(CudaBackend(touch(tmp_path, "proc/driver/nvidia/version"), NO_LIBRARY))
    assert "no GPU is visible" in (probe.reason or "")
    assert "--gpus" in (probe.remedy or "")


def test_the_drivers_library_alone_counts_as_a_driver(tmp_path: Path) -> None:
    probe = unavailable(CudaBackend(tmp_path, SOME_LIBRARY))
    assert "no GPU is visible" in (probe.reason or "")


@pytest.mark.parametrize(
    ("device", "library"),
    [("dev/nvidia0", NO_LIBRARY), ("dev/dxg", SOME_LIBRARY), ("dev/kfd", NO_LIBRARY)],
)
def test_a_gpu_without_torch_says_what_to_install(
    tmp_path: Path, device: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    probe = unavailable(CudaBackend(touch(tmp_path, device), library))
    assert probe.reason == "a GPU is visible, and torch is not installed"
    assert "accelbench[cuda]" in (probe.remedy or "")


def test_the_control_device_of_the_driver_is_no_gpu(tmp_path: Path) -> None:
    root = touch(tmp_path, "dev/nvidiactl", "dev/nvidia-uvm", "proc/driver/nvidia/version")
    assert "no GPU is visible" in (unavailable(CudaBackend(root, NO_LIBRARY)).reason or "")
