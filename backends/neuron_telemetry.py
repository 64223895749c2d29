"""Memory and load of one Neuron core: by the driver's files in /sys, else by neuron-monitor.

Which of them it was is part of the record. Energy is told by neither. Torch-free.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from pydantic import JsonValue

from bench.backends import neuron_monitor, neuron_sysfs
from bench.backends.neuron_monitor import Monitor
from bench.backends.neuron_sysfs import Core, Cycles

NO_ENERGY = (
    "the Neuron driver and neuron-monitor tell no joules: power is told as a share of a maximum "
    "that is not published"
)

DRIVERS_PEAK, MOST_READ = "the driver's", "the most that was read between windows"
"""What a peak of a core's memory is, where the driver's files tell of it."""


class Telemetry(ABC):
    """What is told of one core."""

    source: str | None = None
    """Null: nothing is told."""

    @abstractmethod
    def memory_bytes(self) -> int | None:
        """Return the device memory in use now; null: it is not told."""

    @abstractmethod
    def reset(self) -> None:
        """Begin the peak, and the load, anew."""

    @abstractmethod
    def peak_memory_bytes(self) -> int | None:
        """Return the most since `reset`; null: it is not told, or also holds what came before."""

    @abstractmethod
    def load(self) -> dict[str, JsonValue]:
        """Return how busy the core or its device has been, each figure with its unit."""

    def close(self) -> None:  # noqa: B027 - only a program has to be ended
        """End what was started."""


class Untold(Telemetry):
    """Nothing tells.

    Args:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def memory_bytes(self) -> int | None:
        """Return null."""
        return None

    def reset(self) -> None:
        """Nothing to begin anew."""

    def peak_memory_bytes(self) -> int | None:
        """Return null."""
        return None

    def load(self) -> dict[str, JsonValue]:
        """Return why there is none."""
        return {"telemetry_missing": self._reason}


class Driver(Telemetry):
    """The driver's files.

    Args:
        core: The core of this process.
    """

    source = "sysfs"

    def __init__(self, core: Core) -> None:
        self._core = core
        self._before: int | None = None
        self._most: int | None = None
        self._peak_is: str | None = None
        self._cycles: Cycles | None = None

    def memory_bytes(self) -> int | None:
        """Read the counter of the core."""
        found = self._core.memory_bytes()
        if found is not None:
            self._most = max(self._most or 0, found)
        return found

    def reset(self) -> None:
        """Note the driver's peak: clearing it takes root, and would clear it for everybody."""
        self._before = self._core.peak_memory_bytes()
        self._most = None
        self._cycles = self._core.tensor_cycles()

    def peak_memory_bytes(self) -> int | None:
        """Return the driver's peak if it rose after the reset, else the most of all readings.

        A peak that did not rise may be another program's. The readings are made between windows:
        what an execution takes for itself the runtime keeps while its graph is loaded.
        """
        peak = self._core.peak_memory_bytes()
        if peak is not None and self._before is not None and peak > self._before:
            self._peak_is = DRIVERS_PEAK
            return peak
        self.memory_bytes()
        self._peak_is = None if self._most is None else MOST_READ
        return self._most

    def load(self) -> dict[str, JsonValue]:
        """Return the tensor engine's work since `reset`, and the device's last minute of power.

        What the peak is that was asked for last is told beside them.
        """
        now, before = self._core.tensor_cycles(), self._cycles
        share = None if now is None or before is None else now.multiplied_percent(before)
        found: dict[str, JsonValue] = {
            "tensor_engine_percent": share,
            "peak_memory_is": self._peak_is,
        }
        power = self._core.power()
        if power is None:
            return {**found, "device_power_percent": None}
        return {
            **found,
            "device_power_percent": power.mean,
            "device_power_percent_min": power.low,
            "device_power_percent_max": power.high,
        }


class Program(Telemetry):
    """neuron-monitor, which runs until this is closed.

    Args:
        monitor: The program.
    """

    source = "neuron-monitor"

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def memory_bytes(self) -> int | None:
        """Return what the latest document says."""
        return self._monitor.memory_bytes()

    def reset(self) -> None:
        """Begin peak and mean anew."""
        self._monitor.reset()

    def peak_memory_bytes(self) -> int | None:
        """Return the most of all documents since the reset."""
        return self._monitor.peak_memory_bytes()

    def load(self) -> dict[str, JsonValue]:
        """Return the mean utilisation of the core since the reset, untimed passes included."""
        return {"core_utilization_percent": self._monitor.utilization_percent()}

    def close(self) -> None:
        """End the program."""
        self._monitor.close()


def of_core(number: int, root: Path, lnc: int | None = 1) -> Telemetry:
    """Return what tells of a core.

    Args:
        number: Of the core on this machine, as NEURON_RT_VISIBLE_CORES has it.
        root: The file system that is looked at.
        lnc: Physical cores in a logical one; null: not told. Which of the driver's cores a logical
            one is made of is not documented, so that the driver's files are read for 1 only.
    """
    cores = neuron_sysfs.cores(root) if lnc == 1 else []
    if number < len(cores) and cores[number].memory_bytes() is not None:
        return Driver(cores[number])
    command = neuron_monitor.find()
    if command is None:
        return Untold("the driver shows no memory counter in /sys, and there is no neuron-monitor")
    try:
        return Program(Monitor(os.getpid(), number, command))
    except OSError as error:
        return Untold(f"neuron-monitor cannot be started: {error.strerror}")
