"""What the CPU device tells of itself between windows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.backends import host

pytest.importorskip("torch")

from bench.backends.base import World
from bench.backends.cpu import CpuBackend, CpuDevice
from bench.scenarios.schema import Knobs
from tests.small_vit import SMALL_VIT

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


@pytest.mark.parametrize(
    ("settings", "paced"),
    [({}, True), ({"data": {"workers": 1}}, False), ({"processes": 2, "engine": "ddp"}, False)],
    ids=["alone", "a loader worker", "two ranks"],
)
def test_the_pace_is_read_only_where_nothing_of_ours_shares_the_core(
    settings: dict[str, Any], paced: bool
) -> None:
    knobs = Knobs.model_validate(SMALL_VIT | {"threads": 1} | settings)
    opened = CpuBackend().open(knobs, World())
    clocks = opened.clocks()
    opened.close()
    assert clocks is not None
    assert (clocks.calculation_us is not None) == paced
