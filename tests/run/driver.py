"""Running the command line as its users do: another process, a folder of its own, its real output.

Every process that a run starts inherits a marker in its environment, so that a test can tell
whether one was left behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import orjson
import psutil

from bench.results.record import Record
from bench.results.store import Store
from bench.worker.job import JOB_VARIABLE

PLUGINS = Path(__file__).parent / "plugins"
_MARKER = "BENCH_TEST_MARKER"
_LOOK_S = 0.5
_ENTRY_POINTS = "[bench.backends]\ntoy = toy_backend:ToyBackend\n"

HEAD = """\
schema: 1
name: {name}
model: tiny:build
image_size: 4
classes: 10
batch_size: 4
task: infer
data: {{ source: cached, pool: 1 }}
measure:
  launches: 1
  budget_s: 0.2
  windows: 3
  warmup_s: 0
  warmup_cap_s: 20
  diagnostics: false
  health: false
"""


@dataclass(frozen=True)
class Finished:
    """What a run of the command left."""

    code: int
    stdout: str
    stderr: str
    peak_rss_bytes: int = 0
    """Of the command's own process, as far as it was watched."""
    libraries: frozenset[str] = frozenset()
    """File names mapped into the command's own process."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(orjson.loads(self.stdout)["rows"])

    def row(self, case: str) -> dict[str, Any]:
        (found,) = [row for row in self.rows if row["case"] == case]
        return found

    @property
    def complaints(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("bench: ")]


@dataclass
class Running:
    """A run of the command that is still going."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    peak_rss_bytes: int = 0
    libraries: set[str] = field(default_factory=set)

    def wait(self, timeout_s: float = 150.0) -> Finished:
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            self._look()
            if time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"still running after {timeout_s} s: {self.stderr()}")
            time.sleep(0.1)
        return Finished(
            self.process.returncode,
            self.out.read_text(encoding="utf-8"),
            self.stderr(),
            self.peak_rss_bytes,
            frozenset(self.libraries),
        )

    def stderr(self) -> str:
        return self.err.read_text(encoding="utf-8")

    def wait_for(self, happened: Callable[[str], bool], timeout_s: float = 60.0) -> None:
        """Return once what stderr says so far is what the test waits for."""
        deadline = time.monotonic() + timeout_s
        while not happened(self.stderr()):
            assert self.process.poll() is None, f"ended early: {self.stderr()}"
            assert time.monotonic() < deadline, f"did not happen: {self.stderr()}"
            time.sleep(0.05)

    def _look(self) -> None:
        proc = Path("/proc") / str(self.process.pid)
        try:
            status = (proc / "status").read_text(encoding="ascii")
            maps = (proc / "maps").read_text(encoding="utf-8")
        except OSError:
            return  # it ended between two looks, or this system has no /proc
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.peak_rss_bytes = int(line.split()[1]) * 1024
        self.libraries |= {Path(line.split(maxsplit=5)[-1]).name for line in maps.splitlines()}


class Bench:
    """The command in a folder of its own, with the toy backend installed beside it."""

    def __init__(self, root: Path) -> None:
        self.marker = secrets.token_hex(8)
        self.cwd = root / "work"
        self.home = root / "home"
        self.temporary = root / "temporary"
        self._site = root / "site"
        for folder in (self.cwd, self.home, self.temporary, self._site):
            folder.mkdir()
        shutil.copy(PLUGINS / "tiny.py", self.cwd)
        shutil.copy(PLUGINS / "toy_backend.py", self._site)
        install_entry_points(self._site, "toy-backend", _ENTRY_POINTS)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(self._site),
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "COLUMNS": "200",
            "NO_COLOR": "1",
            _MARKER: self.marker,
        }
        self._calls = 0

    @property
    def results(self) -> Path:
        return self.cwd / "results"

    def scenario(self, name: str, cases: str = "", head: str = HEAD) -> str:
        """Write a scenario file of small, quick cases and return its name."""
        path = self.cwd / f"{name}.yaml"
        path.write_text(head.format(name=name) + dedent(cases), encoding="utf-8")
        return path.name

    def start(
        self,
        *arguments: str,
        before: tuple[str, ...] = (),
        command: tuple[str, ...] = ("-m", "bench"),
        environment: Mapping[str, str] | None = None,
    ) -> Running:
        self._calls += 1
        out, err = (self.temporary.parent / f"{self._calls}.{name}" for name in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [*before, sys.executable, *command, *arguments],
                cwd=self.cwd,
                env={**self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        return Running(process, out, err)

    def __call__(self, *arguments: str, **options: Any) -> Finished:
        return self.start(*arguments, **options).wait()

    def run(self, scenario: str, *arguments: str, backend: str = "toy", **options: Any) -> Finished:
        """Run a scenario and have the rows as JSON."""
        return self(
            "run", scenario, "--backend", backend, "--format", "json", *arguments, **options
        )

    def records(self) -> list[Record]:
        store = Store(self.results)
        found = [stored.record for stored in store.records()]
        assert store.problems == []
        return found

    def record(self, case: str) -> Record:
        (found,) = [record for record in self.records() if record.requested.case == case]
        return found

    def files(self) -> list[str]:
        """Return every file below the results folder, hidden ones included."""
        return sorted(
            str(path.relative_to(self.results))
            for path in self.results.rglob("*")
            if path.is_file()
        )

    def processes(self) -> list[str]:
        """Return the command lines of all processes of this folder's runs that are alive."""
        return [" ".join(command) for _, command, _ in self._alive()]

    def ranks(self, without: str) -> list[psutil.Process]:
        """Return the ranks that are alive and do not have this variable in their environment."""
        return [
            process
            for process, command, variables in self._alive()
            if "bench.worker.main" in command and without not in variables
        ]

    def of_launches(self) -> list[psutil.Process]:
        """Return the ranks that are alive, with all that they have started."""
        return [process for process, _, variables in self._alive() if JOB_VARIABLE in variables]

    def _alive(self) -> Iterator[tuple[psutil.Process, list[str], dict[str, str]]]:
        for process in psutil.process_iter():
            try:
                variables = process.environ()
                ours = variables.get(_MARKER) == self.marker
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    yield process, process.cmdline(), variables
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue


class Watch(threading.Thread):
    """Notes when each rank of a folder's runs, and whatever they start, was last seen alive."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(daemon=True)
        self._bench = bench
        self._over = threading.Event()
        self._last_seen: dict[tuple[int, float], float] = {}

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(_LOOK_S):
            for process in self._bench.of_launches():
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._last_seen[process.pid, process.create_time()] = time.time()

    def alive_after(self, moment: float) -> list[float]:
        """Return for how long each process that was there at a time has been alive after it.

        Args:
            moment: In seconds since the epoch. Unit of what is returned: seconds.
        """
        return [
            seen - moment
            for (_, began), seen in self._last_seen.items()
            if began <= moment <= seen + 4 * _LOOK_S
        ]


def install_entry_points(site: Path, distribution: str, entry_points: str) -> None:
    """Make a folder of the import path look as if a distribution were installed there."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
