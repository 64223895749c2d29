"""RAPL's counters over a fake powercap tree, with the quirks of real ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.backends.rapl import PERIOD_S, Rapl


def zone(root: Path, folder: str, name: str, uj: int, limit: int | None = 1_000_000) -> Path:
    """Write a zone as the kernel shows it; returns its counter."""
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n", encoding="ascii")
    (path / "energy_uj").write_text(f"{uj}\n", encoding="ascii")
    if limit is not None:
        (path / "max_energy_range_uj").write_text(f"{limit}\n", encoding="ascii")
    return path / "energy_uj"


def set_to(counter: Path, uj: int) -> None:
    counter.write_text(f"{uj}\n", encoding="ascii")


def test_the_energy_is_what_the_package_used_since_the_meter_was_made(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = Rapl(tmp_path)
    assert meter.read().joules == 0.0
    set_to(counter, 950_000)
    found = meter.read()
    assert found.joules == pytest.approx(0.05)
    assert (found.period_s, found.machine_wide, found.reason) == (PERIOD_S, True, None)


def test_the_source_says_that_co_tenants_are_in_the_figure_and_memory_is_not(
    tmp_path: Path,
) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    zone(tmp_path, "intel-rapl:1", "package-1", 1)
    assert Rapl(tmp_path).read().source == (
        "RAPL, package-0, package-1: the whole of each processor, co-tenants included, not memory"
    )


def test_a_counter_that_wraps_around_goes_on_counting_every_time(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 900_000)
    meter = Rapl(tmp_path)
    for uj, joules in ((100_000, 0.2), (999_999, 1.099999), (0, 1.1), (999_000, 2.099)):
        set_to(counter, uj)
        assert meter.read().joules == pytest.approx(joules)


def test_a_counter_that_falls_without_a_range_is_no_figure_and_stays_none(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 900_000, limit=None)
    meter = Rapl(tmp_path)
    set_to(counter, 100)
    assert meter.read().reason == (
        "RAPL's counters cannot be read: the counter of package-0 fell, and its range is not told"
    )
    set_to(counter, 950_000)
    assert meter.read().joules is None


def test_parts_of_a_package_and_its_second_interface_count_once(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core", 0),
        zone(tmp_path, "intel-rapl:0:1", "dram", 0),
        zone(tmp_path, "intel-rapl:1", "psys", 0),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    (tmp_path / "intel-rapl").mkdir()
    meter = Rapl(tmp_path)
    set_to(package, 30_000)
    for other in others:
        set_to(other, 700_000)
    assert meter.read().joules == pytest.approx(0.03)


def test_two_packages_wrap_on_their_own(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 990_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 10_000, limit=500_000)
    meter = Rapl(tmp_path)
    set_to(first, 5_000)
    set_to(second, 20_000)
    assert meter.read().joules == pytest.approx(0.015 + 0.010)


@pytest.mark.parametrize("exists", [True, False])
def test_a_virtual_machine_has_no_counter_and_says_so(tmp_path: Path, exists: bool) -> None:
    root = tmp_path if exists else tmp_path / "powercap"
    found = Rapl(root).read()
    assert (found.joules, found.source) == (None, None)
    assert found.reason == ("the system shows no RAPL package counter (virtual machines have none)")


def test_zones_without_a_package_are_no_counter(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "psys", 1)
    assert "no RAPL package counter" in (Rapl(tmp_path).read().reason or "")


@pytest.mark.parametrize("when", ["from the start", "later"])
def test_a_counter_that_only_root_may_read_is_told_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = Rapl(tmp_path)
    if os.geteuid() == 0:  # modes do not stop root
        _forbid(counter, monkeypatch)
    else:
        counter.chmod(0)
    found = (Rapl(tmp_path) if when == "from the start" else meter).read()
    assert found.joules is None
    assert (found.reason or "").startswith("RAPL's counters may be read by root alone: make")


def _forbid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def refusing(self: Path, *arguments: str, **options: str) -> str:
        if self == path:
            raise PermissionError(13, "Permission denied")
        return read(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refusing)


def test_a_zone_that_vanishes_ends_the_figure(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = Rapl(tmp_path)
    counter.unlink()
    assert meter.read().reason == "RAPL's counters cannot be read: No such file or directory"


def test_a_counter_that_holds_no_number_is_no_figure(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    counter.write_text("", encoding="ascii")
    assert "cannot be read" in (Rapl(tmp_path).read().reason or "")
