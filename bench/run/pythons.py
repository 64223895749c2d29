"""The Python that launches run in: this process's own, or another one with its own packages.

Two environments are compared by naming their interpreters. Another interpreter imports the
accelbench that is installed there, and both must be of one version: they write one job's language.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench._version import __version__
from bench.run import environment
from bench.scenarios.errors import ScenarioError

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Python:
    """An interpreter, and the software that it finds."""

    path: str
    versions: Mapping[str, str]
    """By distribution name, python included."""


def own() -> Python:
    """Return the interpreter of this process."""
    return Python(sys.executable, environment.versions())


def examine(path: str, option: str) -> Python:
    """Ask another interpreter, in a short child process, which software it finds.

    Args:
        path: Of the interpreter, or a name to be found like a command.
        option: The option that named it, for messages.

    Raises:
        ScenarioError: it cannot be started, or has not this version of accelbench.
    """
    place = f"{option} {path}"
    # Not resolved: a virtual environment's interpreter is a link to one that knows nothing of it.
    executable = os.path.abspath(os.path.expanduser(path)) if os.sep in path else path  # noqa: PTH100, PTH111
    if executable == sys.executable:
        return own()
    with tempfile.TemporaryDirectory(prefix="bench-python-") as folder:
        answer = Path(folder) / "versions.json"
        command = [executable, "-P", "-m", "bench.run.pythons", str(answer)]
        try:
            child = subprocess.run(
                command,
                env=_environment(),
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            raise ScenarioError(
                place, "there is no such file", "name the python of an environment"
            ) from None
        except OSError as error:
            raise ScenarioError(
                place,
                f"cannot be started: {error.strerror}",
                "name the python of an environment, as in .venv/bin/python",
            ) from None
        except subprocess.TimeoutExpired:
            raise ScenarioError(
                place, f"did not answer within {_TIMEOUT_S:.0f} s", "is it a python at all?"
            ) from None
        if child.returncode != 0 or not answer.exists():
            raise _without_accelbench(place, executable, child.stderr)
        versions = orjson.loads(answer.read_bytes())
    if versions["accelbench"] != __version__:
        raise ScenarioError(
            place,
            f"has accelbench {versions['accelbench']}, and this is {__version__}",
            "install the same version in both environments",
        )
    return Python(executable, versions)


def _environment() -> dict[str, str]:
    return dict(os.environ)


def _without_accelbench(place: str, executable: str, stderr: str) -> ScenarioError:
    lines = [line for line in stderr.splitlines() if line.strip()]
    told = lines[-1].strip() if lines else "no output"
    return ScenarioError(
        place,
        f"cannot import accelbench: {told}",
        f"install it there: {executable} -m pip install accelbench",
    )


def main() -> None:
    """Write the versions that this interpreter finds to the file named by the first argument."""
    Path(sys.argv[1]).write_bytes(orjson.dumps(environment.versions()))


if __name__ == "__main__":
    main()
