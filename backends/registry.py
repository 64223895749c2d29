"""Finding adapters and asking them, each in a short child process, whether they can be used here.

Adapters register in the entry-point group `bench.backends`; ours do it the same way as a third
party's. The parent process only ever imports their torch-free half.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import bench
from bench.backends import asked_once
from bench.backends.base import Backend, Probe
from bench.backends.placed import SLURM_RANK_VARIABLES
from bench.backends.temporary import remedy, temporary_folder, told

GROUP = "bench.backends"
PROBE_TIMEOUT_S = 180.0
_FIRST_RANK_S = 30.0
"""How much later than its own probe that of the machine's first rank may answer."""
_RANK_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "TORCHELASTIC_RUN_ID",
    *SLURM_RANK_VARIABLES,
)
"""A probe is no rank: by these a library knows one, and joins the others."""


class BackendError(Exception):
    """A backend's name or adapter is not usable; the message says which and what to do."""


def names() -> list[str]:
    """Return the names of all registered backends, sorted."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=GROUP)})


def get(name: str) -> Backend:
    """Return the adapter of that name.

    Raises:
        BackendError: no such backend, or its adapter cannot be imported.
    """
    points = importlib.metadata.entry_points(group=GROUP)
    if not points:
        raise BackendError(
            f"no backend is registered in the entry-point group {GROUP}: install the package, "
            'for example with: pip install ".[cpu]"'
        )
    found = [point for point in points if point.name == name]
    if not found:
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise BackendError(f"backend {name!r} is unknown; known are {', '.join(names())}.{hint}")
    try:
        adapter = found[0].load()()
    except Exception as error:
        raise BackendError(
            f"the adapter of backend {name!r} ({found[0].value}) cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(adapter, Backend):
        raise BackendError(f"the adapter of backend {name!r} ({found[0].value}) is not a Backend")
    return adapter


def import_environment(interpreter: str = sys.executable) -> dict[str, str]:
    """Return the environment in which a child imports the same `bench` as this process.

    Another Python imports the one that is installed there: ours would come with the packages that
    lie beside it.
    """
    if interpreter != sys.executable:
        return {}
    package_root = str(Path(bench.__file__).absolute().parent.parent)
    inherited = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(p for p in (package_root, inherited) if p)}


class Prober:
    """Probes backends, each once per run of the program.

    Args:
        timeout_s: Of one probe.
        interpreter: The Python that probes.
    """

    def __init__(
        self, timeout_s: float = PROBE_TIMEOUT_S, interpreter: str = sys.executable
    ) -> None:
        self._timeout_s = timeout_s
        self._interpreter = interpreter
        self._found: dict[str, Probe] = {}

    def probe(self, name: str) -> Probe:
        """Return what the probe child of that backend found; asks once.

        An adapter that cannot be loaded is unavailable, so that it does not take the others along.

        Raises:
            BackendError: no such backend.
            TemporaryError: there is nowhere for the child to answer.
        """
        if name not in self._found:
            self._found[name] = self._ask(name)
        return self._found[name]

    def best(self) -> Probe | None:
        """Return the available backend that is preferred on this machine; null: none is."""
        available = [probe for name in names() if (probe := self.probe(name)).available]
        return max(available, key=lambda probe: probe.preferred, default=None)

    def _ask(self, name: str) -> Probe:
        try:
            get(name)
        except BackendError as error:
            if name not in names():
                raise
            return _unavailable(name, str(error), "repair or remove the package that registers it")
        found = asked_once.probe(
            name,
            lambda: _ask_child(name, self._timeout_s, self._interpreter),
            self._timeout_s + _FIRST_RANK_S,
        )
        return found or _unavailable(
            name,
            "the first rank of this machine, which probes for all, has not answered",
            "look at what that rank printed",
        )


def _ask_child(name: str, timeout_s: float, interpreter: str) -> Probe:
    environment: Mapping[str, str] = {
        k: v for k, v in os.environ.items() if k not in _RANK_VARIABLES
    } | import_environment(interpreter)
    with temporary_folder("bench-probe-") as folder:
        answer = folder / "probe.json"
        command = [interpreter, "-P", "-m", "bench.backends.probe", name, str(answer)]
        try:
            child = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return _unavailable(
                name,
                f"its probe did not answer within {timeout_s:.0f} s",
                "look for a device or driver that hangs; `bench doctor` repeats the probe",
            )
        except OSError as error:
            return _unavailable(name, f"its probe cannot be started: {told(error)}", remedy(error))
        if child.returncode == 0 and answer.exists():
            return Probe.model_validate_json(answer.read_bytes())
    lines = [line for line in child.stderr.splitlines() if line.strip()]
    return _unavailable(
        name,
        f"its probe ended with exit code {child.returncode}: {lines[-1] if lines else 'no output'}",
        "run `bench doctor` after repairing the installation that this message names",
    )


def _unavailable(name: str, reason: str, remedy: str) -> Probe:
    return Probe(backend=name, available=False, reason=reason, remedy=remedy)
