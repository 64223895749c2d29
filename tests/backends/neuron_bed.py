"""A Neuron machine without a Neuron device: its files, its packages, and what it tells of itself.

The packages change the environment as the real ones do. What computes beneath them is real, on the
host's processors: torch_xla under the XLA flavour, torch itself under the native one.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import stat
import sys
from pathlib import Path

from bench.backends.neuron_machine import SIMULATED

FAKES = Path(__file__).parent / "neuron_fakes"
NATIVE_FAKES = Path(__file__).parent / "neuron_native_fakes"
TORCH_NEURONX = "2.9.0.2.15.32035"
NEURONX_CC = "2.24.8799.0"
MEMORY = {"constants": 1000, "model_code": 300, "tensors": 20}
USED_BYTES = sum(MEMORY.values())
ANSWER = "answer: "
"""Begins the line with what a child found out, behind whatever libraries print."""
_ENTRY_POINTS = """\
[torch.backends]
torch_neuronx = torch_neuronx:_autoload
[torch_dynamo_backends]
neuron = torch_neuronx.compiling:neuron_backend
"""


def machine(root: Path, *, instance: str = "inf2.xlarge", cores: int = 2) -> Path:
    """Make the files of a machine with one device and return its root."""
    (root / "dev").mkdir(parents=True)
    (root / "dev/neuron0").touch()
    write(root / "sys/devices/virtual/dmi/id/product_name", f"{instance}\n")
    device = root / "sys/devices/virtual/neuron_device/neuron0"
    write(device / "info/architecture/instance_type", "Inf2\n")
    write(device / "stats/power/utilization", "POWER_STATUS_VALID,1763740800,10.00,40.50,25.25\n")
    for core in range(cores):
        folder = device / f"neuron_core{core}"
        write(folder / "info/architecture/arch_type", "NCv2\n")
        memory = folder / "stats/memory_usage/device_mem"
        for name, used in MEMORY.items():
            write(memory / name / "total", f"{used}\n")
            write(memory / name / "present", "0\n")
            write(memory / name / "peak", f"{2 * used}\n")
    return root


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def site(folder: Path) -> Path:
    """Make a folder of the import path in which the packages of the XLA flavour are installed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libneuronxla", "torch_neuronx"):
        (folder / name).symlink_to(FAKES / name)
    for name, version in (
        ("torch_neuronx", TORCH_NEURONX),
        ("neuronx_cc", NEURONX_CC),
        ("libneuronxla", "2.2.15515.0"),
    ):
        write(
            folder / f"{name}-{version}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n",
        )
    return folder


def native_site(folder: Path) -> Path:
    """Make a folder of the import path in which the packages of the native flavour are installed.

    torch-neuronx is of the version that belongs to the installed torch, as AWS has them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "torch_neuronx").symlink_to(NATIVE_FAKES / "torch_neuronx")
    native = f"torch_neuronx-{native_version()}.dist-info"
    for info, name, version in (
        (native, "torch-neuronx", native_version()),
        (f"neuronx_cc-{NEURONX_CC}.dist-info", "neuronx-cc", NEURONX_CC),
    ):
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        write(folder / info / "METADATA", text)
    write(folder / native / "entry_points.txt", _ENTRY_POINTS)
    return folder


def native_version() -> str:
    """Return the version of TorchNeuron for the torch that is installed."""
    major, minor, *_ = importlib.metadata.version("torch").split(".")
    return f"{major}.{minor}.3.0.1"


def has_native_torch() -> bool:
    """Return whether a torch is installed that is new enough for TorchNeuron."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(map(int, version.split(".")[:2])) >= (2, 13)


def environment(root: Path, packages: Path, log: Path | None = None) -> dict[str, str]:
    """Return the variables that put a process onto such a machine."""
    inherited = os.environ.get("PYTHONPATH", "")
    chosen = {
        SIMULATED: str(root),
        "PYTHONPATH": os.pathsep.join(p for p in (str(packages), inherited) if p),
    }
    return chosen if log is None else chosen | {"FAKE_NEURON_LOG": str(log)}


def document(pid: int = 4711, core: int = 0, error: str = "", share: float = 42.0) -> str:
    """Return a document of neuron-monitor, as AWS's guide describes it."""
    runtime = {
        "pid": pid,
        "address": "",
        "neuron_runtime_tag": str(pid),
        "error": "",
        "report": {
            "neuroncore_counters": {
                "period": 1.0,
                "neuroncores_in_use": {
                    str(core): {"neuroncore_utilization": share, "flops": 1234567891011}
                },
                "error": error,
            },
            "memory_used": {
                "period": 1.0,
                "neuron_runtime_used_bytes": {
                    "host": 6997643264,
                    "neuron_device": 12519788544,
                    "usage_breakdown": {
                        "host": {"tensors": 0},
                        "neuroncore_memory_usage": {str(core): MEMORY},
                    },
                },
                "loaded_models": [],
                "error": error,
            },
        },
    }
    other = {"pid": pid + 1, "error": "", "report": {}}
    return json.dumps(
        {
            "neuron_runtime_data": [other, runtime],
            "system_data": {},
            "instance_info": {"instance_type": "inf2.xlarge", "error": ""},
            "neuron_hardware_info": {"neuron_device_count": 1, "error": ""},
        }
    )


def monitor(folder: Path, lines: list[str]) -> Path:
    """Make a program of that name which writes these lines, and then nothing until it is ended."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "neuron-monitor"
    text = "\n".join(lines)
    program.write_text(
        f"#!{sys.executable}\nimport sys, time\n"
        f"assert sys.argv[1] == '-c' and open(sys.argv[2]).read()\n"
        f"print({text!r}, flush=True)\ntime.sleep(600)\n",
        encoding="utf-8",
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program
