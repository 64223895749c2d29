"""The Python that launches run in: this process's own, or another one with its own packages.

Two environments are compared by naming their interpreters. Another interpreter imports the
accelbench that is installed there, and both must be of one version: they write one job's language,
and measure by one method. Where the code differs all the same, the version of that side says so.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import BaseModel, ValidationError

from bench._version import __version__
from bench.backends import registry
from bench.backends.temporary import temporary_folder
from bench.results.record import MEASUREMENT_VERSION
from bench.run import environment
from bench.scenarios.errors import ScenarioError

_TIMEOUT_S = 60.0
_CODE = (".py", ".json", ".yaml")


class _Answer(BaseModel):
    """What an interpreter finds."""

    accelbench: str
    measurement: int = 0
    """The method of measuring; 0: this accelbench is too old to tell."""
    code: str = ""
    """A digest of accelbench's own files."""
    versions: dict[str, str] = {}


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
        ScenarioError: it cannot be started, or has not this version of accelbench, or one that
            measures in another way.
    """
    place = f"{option} {path}"
    # Not resolved: a virtual environment's interpreter is a link to one that knows nothing of it.
    executable = os.path.abspath(os.path.expanduser(path)) if os.sep in path else path  # noqa: PTH100, PTH111
    if executable == sys.executable:
        return own()
    with temporary_folder("bench-python-") as folder:
        answer = folder / "versions.json"
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
        try:
            found = _Answer.model_validate_json(answer.read_bytes())
        except ValidationError:
            raise ScenarioError(
                place,
                "did not answer as accelbench does",
                f"name the python of an environment that has accelbench {__version__}",
            ) from None
    same = "install the same version in both environments"
    if found.accelbench != __version__:
        raise ScenarioError(
            place, f"has accelbench {found.accelbench}, and this is {__version__}", same
        )
    if found.measurement != MEASUREMENT_VERSION:
        raise ScenarioError(
            place,
            f"has an accelbench that measures by method {found.measurement}, and this one does by "
            f"{MEASUREMENT_VERSION}",
            same,
        )
    if found.code == _own_code():
        return Python(executable, found.versions)
    other = f"{found.accelbench}+code.{found.code[:8]}"
    return Python(executable, found.versions | {"accelbench": other})


def module_places(interpreter: str) -> list[str]:
    """Return where a launch in that Python looks for a user's module: the working folder last."""
    found, here = _search_path(interpreter, os.environ.get("PYTHONPATH")), str(Path.cwd())
    return found if here in found else [*found, here]


@functools.cache
def _search_path(interpreter: str, _python_path: str | None) -> list[str]:
    # Our own sys.path begins with the folder of the command, and is not that of another Python.
    child = subprocess.run(
        [interpreter, "-P", "-c", "import json, sys; print(json.dumps(sys.path))"],
        env=_environment() | registry.import_environment(interpreter),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return list(orjson.loads(child.stdout.splitlines()[-1]))


def _environment() -> dict[str, str]:
    return dict(os.environ)


def _without_accelbench(place: str, executable: str, stderr: str) -> ScenarioError:
    if "Unknown option: -P" in stderr:
        return ScenarioError(
            place,
            "is a Python that is older than 3.11",
            "accelbench needs 3.11 or newer: name such an environment's python",
        )
    lines = [line for line in stderr.splitlines() if line.strip()]
    told = lines[-1].strip() if lines else "no output"
    return ScenarioError(
        place,
        f"cannot import accelbench: {told}",
        f"install it there: {executable} -m pip install accelbench",
    )


@functools.cache
def _own_code() -> str:
    """Return a digest of this accelbench's own files, by their names and contents."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    # In a checkout three of the folders are links.
    for folder, inside, names in os.walk(root, followlinks=True):
        inside.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix in _CODE:
                digest.update(f"{path.relative_to(root)}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def main() -> None:
    """Write what this interpreter finds to the file named by the first argument."""
    found = _Answer(
        accelbench=__version__,
        measurement=MEASUREMENT_VERSION,
        code=_own_code(),
        versions=environment.versions(),
    )
    Path(sys.argv[1]).write_text(found.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
