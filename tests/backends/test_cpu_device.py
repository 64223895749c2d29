"""What the CPU device tells of itself between windows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.backends import host

pytest.importorskip("torch")

from bench.backends.cpu import CpuDevice

pytestmark = pytest.mark.torch


@pytest.fixture
def device() -> Iterator[CpuDevice]:
    opened = CpuDevice(threads=1)
    yield opened
    opened.close()


def test_a_peak_that_was_never_begun_is_unknown(device: CpuDevice) -> None:
    assert device.peak_memory_bytes() is None


def test_a_peak_is_told_only_where_it_could_be_begun_anew(
    device: CpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "reset_peak_rss", lambda: True)
    monkeypatch.setattr(host, "peak_rss_bytes", lambda: 4096)
    device.reset_peak_memory()
    assert device.peak_memory_bytes() == 4096
    monkeypatch.setattr(host, "reset_peak_rss", lambda: False)
    device.reset_peak_memory()
    assert device.peak_memory_bytes() is None


def test_the_memory_in_use_is_that_of_this_process(device: CpuDevice) -> None:
    assert device.memory_bytes() == pytest.approx(host.anonymous_bytes(), rel=0.05)


def test_energy_is_a_figure_or_a_reason(device: CpuDevice) -> None:
    found = device.energy()
    assert (found.joules is None) != (found.reason is None)
