"""From a device's counters to the figures of a launch."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from bench.backends.base import ClockRates, Counters, Device, EnergyCount, World
from bench.measure.readings import Around, Reading
from bench.results.record import Clocks, Energy
from bench.scenarios.schema import Knobs
from bench.worker.gauges import DeviceGauge
from tests.measure.fakes import FakeClock


class MeteredDevice(Device):
    """A device of 50 W that takes 4 GB, and gets hot with every reading."""

    def __init__(self, clock: FakeClock, *, machine_wide: bool = False) -> None:
        self.clock = clock
        self.machine_wide = machine_wide
        self.hot = 0
        self.reason: str | None = None

    def fence(self) -> None:
        raise NotImplementedError

    def feed(self, batches: Iterable[Any], knobs: Knobs) -> Iterator[Any]:
        raise NotImplementedError

    def autocast(self, knobs: Knobs) -> contextlib.AbstractContextManager[Any]:
        raise NotImplementedError

    def counters(self) -> Counters:
        raise NotImplementedError

    def memory_bytes(self) -> int | None:
        return 4_000_000_000

    def energy(self) -> EnergyCount:
        if self.reason is not None:
            return EnergyCount(reason=self.reason)
        return EnergyCount(
            joules=50 * self.clock.time,
            source="meter",
            period_s=0.1,
            machine_wide=self.machine_wide,
        )

    def clocks(self) -> ClockRates | None:
        self.hot += 1
        return ClockRates("driver", 1500.0, {"hot": self.hot})


def measured(device: MeteredDevice, gauge: DeviceGauge, windows: int = 3) -> list[Around]:
    """Return the readings around windows of two seconds."""
    readings: list[Reading] = [gauge.read()]
    for _ in range(windows):
        device.clock.spend(2.0)
        readings.append(gauge.read())
    return [Around(a, b) for a, b in itertools.pairwise(readings)]


def test_a_device_that_tells_all_has_all_figures() -> None:
    device = MeteredDevice(FakeClock())
    gauge = DeviceGauge(device, device.clock)
    windows = measured(device, gauge)
    assert gauge.energy(windows, [2.0] * 3, World()) == Energy(
        joules=300.0, seconds=6.0, source="meter"
    )
    assert gauge.clocks(windows) == Clocks(
        source="driver", mhz_min=1500.0, mhz_max=1500.0, throttled=["hot"]
    )
    assert windows[0].after.memory_bytes == 4_000_000_000


def test_a_counter_of_the_whole_machine_is_told_by_one_rank_of_it() -> None:
    device = MeteredDevice(FakeClock(), machine_wide=True)
    gauge = DeviceGauge(device, device.clock)
    windows = measured(device, gauge)
    assert gauge.energy(windows, [2.0] * 3, World(rank=1, size=2, local_rank=1)) is None
    other_machine = gauge.energy(windows, [2.0] * 3, World(rank=8, size=16, local_rank=0))
    assert other_machine is not None
    assert other_machine.joules == 300.0


def test_a_counter_of_one_device_is_told_by_every_rank() -> None:
    device = MeteredDevice(FakeClock())
    gauge = DeviceGauge(device, device.clock)
    found = gauge.energy(measured(device, gauge), [2.0] * 3, World(rank=1, size=2, local_rank=1))
    assert found is not None
    assert found.joules == 300.0


def test_a_counter_that_stops_being_readable_gives_its_reason() -> None:
    device = MeteredDevice(FakeClock())
    gauge = DeviceGauge(device, device.clock)
    windows = measured(device, gauge)
    device.reason = "the driver went away"
    windows += measured(device, gauge, windows=1)
    found = gauge.energy(windows, [2.0] * 4, World())
    assert found == Energy(reason="the driver went away")


def test_a_device_that_tells_nothing_has_a_reason_and_nulls() -> None:
    class Silent(MeteredDevice):
        memory_bytes = Device.memory_bytes
        energy = Device.energy
        clocks = Device.clocks

    device = Silent(FakeClock())
    gauge = DeviceGauge(device, device.clock)
    windows = measured(device, gauge)
    assert gauge.clocks(windows) is None
    assert gauge.energy(windows, [2.0] * 3, World()) == Energy(
        reason="this backend reads no energy counter"
    )
    assert windows[0].after == Reading(at_s=device.clock.time - 4.0)
