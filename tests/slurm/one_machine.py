"""A real Slurm on this machine alone, for as long as a test or a command needs it.

Everything lies in a folder of its own (munge's key and socket, the configuration, logs and state),
runs as this user and in the foreground, and ends with the one who started it. The programs are
those of Debian's packages slurm-wlm and munge.

    python -m tests.slurm.one_machine srun -n 2 hostname
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "scancel", "sinfo")
_READY_S = 60.0
_WHERE = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
_CONFIGURATION = """\
ClusterName=one-machine
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_WHERE) is None]


@contextlib.contextmanager
def running(cpus: int = 2) -> Iterator[Mapping[str, str]]:
    """Start a Slurm, yield the variables by which its programs find it, and end it.

    Args:
        cpus: How many its one node has, whether the machine has as many or not.

    Raises:
        RuntimeError: it does not answer in time; the message ends with what it printed last.
    """
    # Sockets have short names: not below a test's own folder.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        variables = {"SLURM_CONF": str(_configured(folder, cpus)), "PATH": _WHERE}
        environment = {**_without_slurm(), **variables}
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        commands = (
            [
                *("munged", "--foreground", "--force", f"--key-file={key}"),
                *(f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"),
                *(f"--log-file={folder}/munged.own.log", f"--seed-file={folder}/munged.seed"),
            ],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-c"],
        )
        for command in commands:
            stack.enter_context(_started(command, environment, folder))
        _wait_until_idle(environment, folder)
        yield variables


def _configured(folder: Path, cpus: int) -> Path:
    for part in ("state", "spool"):
        (folder / part).mkdir()
    path = folder / "slurm.conf"
    text = _CONFIGURATION.format(
        host=platform.node().partition(".")[0],
        user=getpass.getuser(),
        controller_port=_free_port(),
        daemon_port=_free_port(),
        folder=folder,
        cpus=cpus,
    )
    path.write_text(text, encoding="ascii")
    return path


@contextlib.contextmanager
def _started(
    command: list[str], environment: Mapping[str, str], folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    program = shutil.which(command[0], path=_WHERE)
    if program is None:
        raise RuntimeError(f"{command[0]} is not installed")
    with (folder / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            [program, *command[1:]],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_idle(environment: Mapping[str, str], folder: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"],
            env=dict(environment),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.stdout.strip() == "idle":
            return
        if time.monotonic() > deadline:
            logs = [
                f"{path.name}: {path.read_text(errors='replace')[-2000:]}"
                for path in sorted(folder.glob("*.log"))
            ]
            told = "\n".join([done.stdout + done.stderr, *logs])
            raise RuntimeError(f"Slurm has no idle node after {_READY_S:.0f} s:\n{told}")
        time.sleep(0.5)


def _without_slurm() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Run a command while a Slurm is there; returns its exit code."""
    with running(os.cpu_count() or 1) as variables:
        return subprocess.run(sys.argv[1:], env={**os.environ, **variables}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
