"""What the driver's management library (NVML) tells of one NVIDIA GPU. It reads and never sets.

A GPU is found by its UUID: NVML numbers all GPUs of the machine, and knows nothing of
CUDA_VISIBLE_DEVICES. A reading takes from some microseconds to a millisecond. Torch-free.
"""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from pydantic import JsonValue

from bench.backends.base import ClockRates, EnergyCount

PERIOD_S = 0.1
"""Drivers move the energy counter, and those of time, in steps of up to this long."""
_SLOWED = {
    0x08: "the GPU's hardware halved its clock or worse (HwSlowdown)",
    0x20: "the driver lowered the GPU's clock for its heat (SwThermalSlowdown)",
    0x40: "the GPU's hardware lowered its clock for its heat (HwThermalSlowdown)",
    0x80: "the power supply asked the GPU to brake (HwPowerBrakeSlowdown)",
}
"""Bits of the clocks event reasons that mean a disturbance.

The power cap's bit (0x04) is left out: a GPU at its own limit is at work as it was built to be, and
would make every row of a large model noisy. Its time is told in `facts`, and a limit that somebody
lowered is a warning. The others (idle, a chosen clock) slow nothing down meanwhile.
"""
_TOO_HOT = "the GPU was too hot (its thermal violation time rose)"
_POWER_TIME, _HEAT_TIME = 74, 75
"""NVML_FI_DEV_PERF_POLICY_POWER and _THERMAL: nanoseconds of both since the driver was loaded. The
fields that tell the other reasons apart have other numbers in other drivers, so they are not read.
"""
_MIG_PARENT_COUNTS = (
    "NVML counts the energy of the whole GPU, and this is a MIG instance: a part of it"
)


class Telemetry(ABC):
    """One GPU as its driver sees it, or the reason why it is not seen."""

    @abstractmethod
    def energy(self) -> EnergyCount:
        """Return the joules since the driver was loaded, or why there are none."""

    @abstractmethod
    def clocks(self) -> ClockRates | None:
        """Return the clock of the multiprocessors and what has slowed it; null: not told."""

    @abstractmethod
    def co_tenants(self) -> list[str]:
        """Return who else computes on this GPU, with what helps; empty: nobody, or not told."""

    @abstractmethod
    def facts(self) -> dict[str, JsonValue]:
        """Return what the driver says of the GPU and its limits; null: it does not tell."""

    @abstractmethod
    def warnings(self) -> list[str]:
        """Return what would spoil a measurement, each with its remedy."""

    def close(self) -> None:  # noqa: B027 - where nothing was opened
        """Release the library."""


class Unseen(Telemetry):
    """A GPU of which nothing is told.

    Args:
        reason: Why, in one line.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def energy(self) -> EnergyCount:
        """Return the reason."""
        return EnergyCount(reason=self._reason)

    def clocks(self) -> ClockRates | None:
        """Return nothing."""
        return None

    def co_tenants(self) -> list[str]:
        """Return nothing."""
        return []

    def facts(self) -> dict[str, JsonValue]:
        """Return the reason alone."""
        return {"nvml": self._reason}

    def warnings(self) -> list[str]:
        """Say which figures will be missing."""
        return [f"energy, clocks and other users of the GPU stay unknown: {self._reason}"]


class Gpu(Telemetry):
    """A GPU that NVML has opened.

    Args:
        library: The module `pynvml`, initialised.
        handle: Of the GPU, or of the MIG instance.
        board: Of the whole GPU.
        sliced: Whether a MIG instance is used.
    """

    def __init__(self, library: Any, handle: Any, board: Any, *, sliced: bool) -> None:
        self._library = library
        self._handle = handle
        self._board = board
        self._sliced = sliced
        self._met = dict.fromkeys(_SLOWED.values(), 0)
        self._power_ns = self._times().get(_POWER_TIME)

    def energy(self) -> EnergyCount:
        """Return the energy of the board since the driver was loaded."""
        if self._sliced:
            return EnergyCount(reason=_MIG_PARENT_COUNTS)
        try:
            millijoules = self._library.nvmlDeviceGetTotalEnergyConsumption(self._board)
        except self._library.NVMLError as error:
            return EnergyCount(reason=f"NVML does not tell the energy of this GPU: {error}")
        return EnergyCount(
            joules=millijoules / 1e3,
            source="NVML total energy: the GPU's whole board with its memory, not the host",
            period_s=PERIOD_S,
        )

    def clocks(self) -> ClockRates | None:
        """Return the clock now, and how often each reading met a reason for a lower one.

        The reasons are those of this moment. Heat is also counted by the driver, in nanoseconds:
        what came and went between two readings shows there.
        """
        mhz = self._told("nvmlDeviceGetClockInfo", self._library.NVML_CLOCK_SM)
        bits = self._told("nvmlDeviceGetCurrentClocksEventReasons")
        hot_ns = self._times().get(_HEAT_TIME)
        if mhz is None and bits is None and hot_ns is None:
            return None
        for bit, reason in _SLOWED.items():
            if bits is not None and bits & bit:
                self._met[reason] += 1
        throttled = self._met | ({} if hot_ns is None else {_TOO_HOT: hot_ns})
        rate = None if mhz is None else float(mhz)
        return ClockRates("NVML, clock of the multiprocessors", rate, throttled)

    def co_tenants(self) -> list[str]:
        """Count the other processes that hold a context on this GPU."""
        if self._sliced and self._handle is self._board:
            return []  # the processes of the other instances would be among them
        found = self._told("nvmlDeviceGetComputeRunningProcesses", of=self._handle)
        processes = {process.pid for process in found or ()}
        # In a container the numbers are the host's, so that ours is not recognised among them.
        others = len(processes - {os.getpid()}) if os.getpid() in processes else len(processes) - 1
        if others < 1:
            return []
        who = "one other process holds" if others == 1 else f"{others} other processes hold"
        return [f"{who} this GPU: end them, or measure on a GPU of its own (nvidia-smi lists them)"]

    def facts(self) -> dict[str, JsonValue]:
        """Return driver, limits and modes, and the time at the power limit since it was opened."""
        ecc = self._told("nvmlDeviceGetEccMode")
        now, then = self._times().get(_POWER_TIME), self._power_ns
        capped = None if now is None or then is None else (now - then) / 1e9
        return {
            "driver": self._told("nvmlSystemGetDriverVersion", of=None),
            "power_limit_w": _watts(self._told("nvmlDeviceGetEnforcedPowerLimit")),
            "power_limit_default_w": _watts(self._told("nvmlDeviceGetPowerManagementDefaultLimit")),
            "power_capped_s": capped,
            "clock_limit_mhz": self._told("nvmlDeviceGetMaxClockInfo", self._library.NVML_CLOCK_SM),
            "ecc": None if ecc is None else bool(ecc[0]),
            "persistence_mode": _flag(self._told("nvmlDeviceGetPersistenceMode")),
            "mig": self._sliced,
        }

    def warnings(self) -> list[str]:
        """Look for what makes a GPU slower, or its starts longer, than they need be."""
        found, facts = self.co_tenants(), self.facts()
        if facts["persistence_mode"] is False:
            found.append(
                "persistence mode is off: between launches the driver may be unloaded, which makes "
                "each start seconds longer; as root: nvidia-smi -pm 1"
            )
        limit, default = facts["power_limit_w"], facts["power_limit_default_w"]
        if isinstance(limit, float) and isinstance(default, float) and limit < default:
            found.append(
                f"the power limit is {limit:.0f} W where the GPU's own is {default:.0f} W: it is "
                f"slower than others of its kind; as root: nvidia-smi -pl {default:.0f}"
            )
        if self._sliced:
            found.append("this is a MIG instance: its figures are those of a part of a GPU")
        return found

    def close(self) -> None:
        """Release the library."""
        self._library.nvmlShutdown()

    def _told(self, name: str, *arguments: Any, of: Any = ...) -> Any:
        """Return what a function of the library says of the board; null: this GPU does not tell."""
        handles = [] if of is None else [self._board if of is ... else of]
        try:
            return getattr(self._library, name)(*handles, *arguments)
        except self._library.NVMLError:
            return None  # not supported by this GPU or driver, or not permitted

    def _times(self) -> dict[int, int]:
        """Return the nanoseconds that the driver has counted, by field, for those it counts."""
        fields = self._told("nvmlDeviceGetFieldValues", [_POWER_TIME, _HEAT_TIME]) or ()
        return {field.fieldId: int(field.value.ullVal) for field in fields if field.nvmlReturn == 0}


def _pynvml() -> Any:
    return importlib.import_module("pynvml")


def find(uuid: str, load: Callable[[], Any] = _pynvml) -> Telemetry:
    """Return the GPU of that UUID.

    Args:
        uuid: As CUDA tells it, without NVML's prefix.
        load: Imports NVML's Python binding.
    """
    try:
        library = load()
    except ImportError:
        return Unseen("the package nvidia-ml-py is not installed (pip install nvidia-ml-py)")
    try:
        library.nvmlInit()
        handle, sliced = _handle(library, uuid)
        board = library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if sliced else handle
    except library.NVMLError as error:
        return Unseen(f"NVML does not open this GPU: {error}")
    return Gpu(library, handle, board, sliced=sliced or _is_divided(library, board))


def _handle(library: Any, uuid: str) -> tuple[Any, bool]:
    """Return the handle, and whether it is a MIG instance's."""
    if uuid.startswith("MIG-"):
        return library.nvmlDeviceGetHandleByUUID(uuid), True
    bare = uuid.removeprefix("GPU-")
    try:
        return library.nvmlDeviceGetHandleByUUID(f"GPU-{bare}"), False
    except library.NVMLError as no_gpu:
        try:
            return library.nvmlDeviceGetHandleByUUID(f"MIG-{bare}"), True
        except library.NVMLError:
            raise no_gpu from None


def _is_divided(library: Any, board: Any) -> bool:
    """Return whether the GPU is divided: CUDA then runs on one of its instances."""
    try:
        return bool(library.nvmlDeviceGetMigMode(board)[0])
    except library.NVMLError:
        return False  # a GPU that knows no such mode


def _watts(milliwatts: Any) -> float | None:
    return None if milliwatts is None else milliwatts / 1e3


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)
