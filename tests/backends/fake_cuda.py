"""torch.cuda without a GPU: what is issued is noted in order, nothing runs beside anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.backends.fake_nvml import UUID


class FakeStream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self._log = log
        self._events = 0

    def record_event(self) -> str:
        self._events += 1
        self._log.append(f"event {self._events} on {self.name}")
        return f"event {self._events}"

    def wait_event(self, event: str) -> None:
        self._log.append(f"{self.name} waits for {event}")


class FakeEvent:
    """An event whose moment on the GPU is that of its record, a millisecond after the last one."""

    def __init__(self, cuda: FakeCuda, *, enable_timing: bool) -> None:
        assert enable_timing, "an event without timing has no time"
        self._cuda = cuda
        self._at_ms: float | None = None

    def record(self, stream: FakeStream) -> None:
        self._cuda.gpu_ms += 1.0
        self._at_ms = self._cuda.gpu_ms
        self._cuda.log.append(f"timed event on {stream.name}")

    def elapsed_time(self, later: FakeEvent) -> float:
        """Return milliseconds; as on a GPU, an error until both are recorded and done."""
        if self._at_ms is None or later._at_ms is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        if not self._cuda.log[-1].startswith("synchronize"):
            raise RuntimeError("Both events must be completed before calculating elapsed time.")
        return later._at_ms - self._at_ms


class FakeProperties:
    uuid = UUID


class FakeCuda:
    """Keeps a log of its calls, and the statistics that the allocator would give."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.statistics: dict[str, int] = {}
        self.default = FakeStream("default", self.log)
        self.current = self.default
        self.gpu_ms = 0.0

    def Event(self, enable_timing: bool = False) -> FakeEvent:  # noqa: N802 - torch's own name
        return FakeEvent(self, enable_timing=enable_timing)

    def set_device(self, device: Any) -> None:
        self.log.append(f"set {device}")

    def synchronize(self, device: Any) -> None:
        self.log.append(f"synchronize {device}")

    def memory_stats(self, _device: Any) -> dict[str, int]:
        return self.statistics

    def reset_peak_memory_stats(self, _device: Any) -> None:
        self.log.append("reset peaks")

    def get_device_properties(self, _device: Any) -> FakeProperties:
        return FakeProperties()

    def Stream(self, device: Any) -> FakeStream:  # noqa: N802 - torch's own name
        return FakeStream("side", self.log)

    def current_stream(self, _device: Any) -> FakeStream:
        return self.current

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before


class FakeTensor:
    """A tensor that notes where it is copied and who promised to use it."""

    def __init__(self, name: str, cuda: FakeCuda) -> None:
        self.name = name
        self._cuda = cuda

    def to(self, _device: Any, *, non_blocking: bool) -> FakeTensor:
        assert non_blocking
        self._cuda.log.append(f"copy {self.name} on {self._cuda.current.name}")
        return FakeTensor(self.name, self._cuda)

    def record_stream(self, stream: FakeStream) -> None:
        self._cuda.log.append(f"{self.name} is used on {stream.name}")
