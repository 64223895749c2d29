"""pynvml as it behaves: errors per function, bit masks of the moment, numbers of the host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

POWER, HEAT = 74, 75
UUID = "4b2b2a1e-0000-1111-2222-333344445555"


class NVMLError(Exception):
    pass


class NVMLError_NotFound(NVMLError):  # noqa: N801, N818 - pynvml's own name
    pass


class NVMLError_NotSupported(NVMLError):  # noqa: N801, N818 - pynvml's own name
    pass


class FakeNvml:
    """One GPU, idle and healthy. What is named in `unsupported` raises, as on GPUs without it."""

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1

    def __init__(self, **changes: Any) -> None:
        self.millijoules = 5_000_000
        self.mhz = 1980
        self.bits = 0x1
        self.nanoseconds = {POWER: 0, HEAT: 0}
        self.pids: list[int] = []
        self.instance_pids: list[int] = []
        self.limit_mw = self.default_mw = 700_000
        self.persistence = 1
        self.mig_mode = 0
        self.uuids = {f"GPU-{UUID}": "board"}
        self.unsupported: set[str] = set()
        self.calls: list[str] = []
        self.open = 0
        self.broken: NVMLError | None = None
        vars(self).update(changes)

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken is not None:
            raise self.broken
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name in self.unsupported:
                raise NVMLError_NotSupported("Not Supported")
            return getattr(self, f"_{name}")(*arguments)

        return call

    def _nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid not in self.uuids:
            raise NVMLError_NotFound("Not Found")
        return self.uuids[uuid]

    def _nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, _handle: str) -> str:  # noqa: N802
        return "board"

    def _nvmlDeviceGetMigMode(self, _handle: str) -> list[int]:  # noqa: N802
        return [self.mig_mode, self.mig_mode]

    def _nvmlDeviceGetTotalEnergyConsumption(self, _handle: str) -> int:  # noqa: N802
        return self.millijoules

    def _nvmlDeviceGetClockInfo(self, _handle: str, _kind: int) -> int:  # noqa: N802
        return self.mhz

    def _nvmlDeviceGetMaxClockInfo(self, _handle: str, _kind: int) -> int:  # noqa: N802
        return 1980

    def _nvmlDeviceGetCurrentClocksEventReasons(self, _handle: str) -> int:  # noqa: N802
        return self.bits

    def _nvmlDeviceGetFieldValues(self, _handle: str, fields: list[int]) -> list[Any]:  # noqa: N802
        return [
            SimpleNamespace(
                fieldId=field,
                nvmlReturn=0 if field in self.nanoseconds else 3,
                value=SimpleNamespace(ullVal=self.nanoseconds.get(field, 0)),
            )
            for field in fields
        ]

    def _nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        pids = self.pids if handle == "board" else self.instance_pids
        return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in pids]

    def _nvmlDeviceGetEnforcedPowerLimit(self, _handle: str) -> int:  # noqa: N802
        return self.limit_mw

    def _nvmlDeviceGetPowerManagementDefaultLimit(self, _handle: str) -> int:  # noqa: N802
        return self.default_mw

    def _nvmlDeviceGetPersistenceMode(self, _handle: str) -> int:  # noqa: N802
        return self.persistence

    def _nvmlDeviceGetEccMode(self, _handle: str) -> list[int]:  # noqa: N802
        return [1, 1]

    def _nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.65.06"
