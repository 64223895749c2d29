"""What neuron-monitor tells of this process, where the driver's files in /sys do not.

It is a program of AWS's that writes one JSON document a second. It runs beside the measurement, so
it is started only if there is no other way to know. Torch-free.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.backends import neuron_machine

NAME = "neuron-monitor"
_PERIOD_S = 1.0
_SILENT_S = 3 * _PERIOD_S
"""After so long without a document what was told before says nothing about now."""
_END_S = 5.0
_CONFIGURATION = {
    "period": f"{_PERIOD_S:g}s",
    "neuron_runtimes": [
        {
            "tag_filter": ".*",
            "metrics": [{"type": "neuroncore_counters"}, {"type": "memory_used"}],
        }
    ],
    "system_metrics": [],
}


@dataclass(frozen=True)
class Report:
    """What one document says of one process on one core; null: it does not say."""

    memory_bytes: int | None = None
    utilization_percent: float | None = None
    """Of the core, over the document's period. Unit: percent."""


def read(document: str, pid: int, core: int) -> Report:
    """Return what a document says; a group of figures that names an error says nothing.

    Args:
        document: One line of the program.
        pid: Of the process.
        core: Number of the core on this machine.

    Raises:
        ValueError: it is no document of neuron-monitor.
    """
    found: Any = json.loads(document)
    if not isinstance(found, dict) or not isinstance(found.get("neuron_runtime_data"), list):
        raise ValueError(f"not a document of {NAME}")
    try:
        for runtime in found["neuron_runtime_data"]:
            if runtime.get("pid") == pid and not runtime.get("error"):
                report = runtime.get("report") or {}
                return Report(
                    memory_bytes=_memory(report.get("memory_used") or {}, core),
                    utilization_percent=_utilization(report.get("neuroncore_counters") or {}, core),
                )
    except (AttributeError, TypeError) as error:
        raise ValueError(f"not a document of {NAME}") from error
    return Report()


class Monitor:
    """The program, running beside this process until it is closed.

    Once it has ended, or has been silent for a while, nothing is told any more: a figure of before
    would go on as one of now, and a peak or a mean would be that of a part.

    Args:
        pid: The process to be told of.
        core: Number of its core on this machine.
        command: Path of the program.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, pid: int, core: int, command: str) -> None:
        self._pid, self._core = pid, core
        self._latest = Report()
        self._told_at = time.monotonic()
        self._peak: int | None = None
        self._shares: list[float] = []
        self._lock = threading.Lock()
        self._folder = tempfile.TemporaryDirectory(prefix="bench-monitor-")
        configuration = Path(self._folder.name) / "monitor.json"
        configuration.write_text(json.dumps(_CONFIGURATION), encoding="ascii")
        try:
            self._process = subprocess.Popen(
                [command, "-c", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            self._folder.cleanup()
            raise
        threading.Thread(target=self._listen, name=NAME, daemon=True).start()

    def memory_bytes(self) -> int | None:
        """Return the device memory in use by the latest document, at most a second old."""
        with self._lock:
            return self._latest.memory_bytes if self._tells() else None

    def peak_memory_bytes(self) -> int | None:
        """Return the most of all documents since `reset`: a peak between two is not seen."""
        with self._lock:
            return self._peak if self._tells() else None

    def utilization_percent(self) -> float | None:
        """Return the mean over the documents since `reset`. Unit: percent."""
        with self._lock:
            told = self._shares if self._tells() else []
            return sum(told) / len(told) if told else None

    def reset(self) -> None:
        """Begin peak and mean anew."""
        with self._lock:
            self._peak = self._latest.memory_bytes if self._tells() else None
            self._shares = []

    def close(self) -> None:
        """End the program."""
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            # A line that is cut short at its end is none, nor is one of another form.
            with contextlib.suppress(ValueError):
                self._note(read(line, self._pid, self._core))

    def _tells(self) -> bool:
        """Return whether what was told last may be that of now."""
        return self._process.poll() is None and time.monotonic() - self._told_at < _SILENT_S

    def _note(self, report: Report) -> None:
        with self._lock:
            self._latest, self._told_at = report, time.monotonic()
            if report.memory_bytes is not None:
                self._peak = max(self._peak or 0, report.memory_bytes)
            if report.utilization_percent is not None:
                self._shares.append(report.utilization_percent)


def find() -> str | None:
    """Return the program's path; null: it is not installed."""
    return neuron_machine.program(NAME)


def _memory(group: dict[str, Any], core: int) -> int | None:
    if group.get("error"):
        return None
    used = group.get("neuron_runtime_used_bytes") or {}
    parts = (used.get("usage_breakdown") or {}).get("neuroncore_memory_usage") or {}
    of_core = parts.get(str(core))
    return None if of_core is None else sum(int(part) for part in of_core.values())


def _utilization(group: dict[str, Any], core: int) -> float | None:
    if group.get("error"):
        return None
    of_core = (group.get("neuroncores_in_use") or {}).get(str(core))
    share = None if of_core is None else of_core.get("neuroncore_utilization")
    return None if share is None else float(share)
