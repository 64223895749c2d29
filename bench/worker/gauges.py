"""The device's counters as the measuring code reads them between windows, and what they add up to.

Between a device, which says where its figures come from, and the measuring code, which knows the
figures alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.backends.base import Device, World
from bench.measure import readings
from bench.measure.readings import Around, Reading
from bench.measure.target import WALL_CLOCK, Clock
from bench.results.record import Clocks, Energy


class DeviceGauge:
    """Reads a device's clock, energy and memory, the clock first: it is the first to change."""

    def __init__(self, device: Device, clock: Clock = WALL_CLOCK) -> None:
        self._device = device
        self._clock = clock
        self._meter = device.energy()
        rates = device.clocks()
        self._clocks_from = None if rates is None else rates.source

    def read(self) -> Reading:
        """Read all of them once."""
        rates = self._device.clocks()
        energy = self._device.energy()
        at_s = self._clock.now()
        if energy.reason is not None:
            # A counter that stopped being readable gives no figure, whatever it told before.
            self._meter = energy
        return Reading(
            at_s=at_s,
            memory_bytes=self._device.memory_bytes(),
            joules=energy.joules,
            mhz=None if rates is None else rates.mhz,
            throttled={} if rates is None else dict(rates.throttled),
            calculation_us=None if rates is None else rates.calculation_us,
        )

    def clocks(self, windows: Sequence[Around]) -> Clocks | None:
        """Return the clock over these windows; null: the device tells none."""
        return readings.clocks(windows, self._clocks_from)

    def energy(
        self, windows: Sequence[Around], window_s: Sequence[float], world: World
    ) -> Energy | None:
        """Return the energy over these windows; null: another rank reads the same counter."""
        if self._meter.machine_wide and world.local_rank > 0:
            return None
        return readings.energy(windows, window_s, self._meter)
