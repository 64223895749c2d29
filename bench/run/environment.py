"""Where a case ran: versions, flags and the machine, by allow-list; torch-free.

No host name, user, folder or secret: what is not on a list here is not recorded, and what is has
this machine taken out of it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

from bench._version import __version__
from bench.backends import host
from bench.results.record import Environment
from bench.run.scrubbing import scrub

_DISTRIBUTIONS = (
    "accelerate",
    "deepspeed",
    "jax",
    "libneuronxla",
    "libtpu",
    "neuronx-cc",
    "numpy",
    "nvidia-ml-py",
    "pillow",
    "timm",
    "torch",
    "torch-neuronx",
    "torch-xla",
    "torchao",
    "torchvision",
    "triton",
)
_FLAGS = (
    "ALLREDUCE_GRADIENTS_BUCKET_SIZE_MB",
    host.STAND_IN_VARIABLE,
    "CCOM_SOCKET_IFNAME",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "FI_EFA_FORK_SAFE",
    "FI_EFA_USE_DEVICE_RDMA",
    "FI_PROVIDER",
    "GLOO_SOCKET_IFNAME",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MALLOC_ARENA_MAX",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NCCL_IB_DISABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_PROTO",
    "NCCL_SOCKET_IFNAME",
    "NEURON_CC_FLAGS",
    "NEURON_COMPILER_OPT_LEVEL",
    "NEURON_CUSTOM_SILU",
    "NEURON_EXTRACT_GRAPHS_ONLY",
    "NEURON_FALL_BACK_TO_NULL_NEFF",
    "NEURON_FRAMEWORK_DEBUG",
    "NEURON_FUSE_SOFTMAX",
    "NEURON_LAUNCH_BLOCKING",
    "NEURON_LOGICAL_NC_CONFIG",
    "NEURON_NUM_RECENT_MODELS_TO_KEEP",
    "NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS",
    "NEURON_RT_NUM_CORES",
    "NEURON_RT_STOCHASTIC_ROUNDING_EN",
    "NEURON_RT_STOCHASTIC_ROUNDING_SEED",
    "NEURON_RT_VISIBLE_CORES",
    "NEURON_TRANSFER_ALL_PARAMETERS_WITH_STATIC_RING",
    "NEURON_TRANSFER_WITH_STATIC_RING_OPS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "PJRT_DEVICE",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION",
    "TORCH_NEURONX_FALLBACK_ONLY_FOR_UNIMPLEMENTED_OPS",
    "XLA_DISABLE_FUNCTIONALIZATION",
    "XLA_DOWNCAST_BF16",
    "XLA_ENABLE_PARAM_ALIASING",
    "XLA_FLAGS",
    "XLA_HLO_DEBUG",
    "XLA_IR_DEBUG",
    "XLA_USE_32BIT_LONG",
    "XLA_USE_BF16",
)

_WHERE = frozenset(
    {
        "CCOM_SOCKET_IFNAME",
        "CUDA_DEVICE_ORDER",
        "CUDA_VISIBLE_DEVICES",
        "GLOO_SOCKET_IFNAME",
        "NCCL_SOCKET_IFNAME",
        "NEURON_RT_NUM_CORES",
        "NEURON_RT_VISIBLE_CORES",
        "PJRT_DEVICE",
    }
)
"""Flags that choose a device, or the way between ranks: the device's model tells the rest."""


def versions() -> dict[str, str]:
    """Return the versions of the software that a number depends on, by distribution name."""
    found = {"accelbench": __version__, "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def capture(variables: Mapping[str, str], found: Mapping[str, str] | None = None) -> Environment:
    """Return the environment of a launch that starts with these variables.

    Args:
        variables: Of its processes.
        found: Versions of the software there; null: as this process finds it.
    """
    commit, dirty = _git_commit()
    return Environment(
        versions=versions() if found is None else dict(found),
        os=platform.system(),
        kernel=platform.release(),
        machine=platform.machine(),
        cpu_model=host.cpu_model(),
        cpus_visible=host.cpus_visible(),
        cpus_total=os.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        memory_limit_bytes=memory_limit_bytes(),
        cpu_limit=cpu_limit(),
        governor=governor(),
        flags={name: scrub(variables[name]) for name in _FLAGS if name in variables},
        git_commit=commit,
        git_dirty=dirty,
    )


def acting(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the recorded flags that may change a number, as the processes are told them.

    Whose they are does not matter: those that the adapter sets follow from the case and the
    machine, and the user's own are known by nothing else.

    Args:
        variables: Of the processes of a launch.
    """
    return {name: variables[name] for name in _FLAGS if name in variables and name not in _WHERE}


def memory_limit_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the container's memory limit; null: none, or it cannot be read."""
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        text = _read(cgroup / file)
        # Version 1 writes "no limit" as a number near 2^63.
        if text is not None and text.isdigit() and int(text) < 2**60:
            return int(text)
    return None


def cpu_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return how many CPUs the container may use; null: no limit, or it cannot be read."""
    text = _read(cgroup / "cpu.max")
    if text is not None:
        quota, _, period = text.partition(" ")
        return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None
    quota_text = _read(cgroup / "cpu/cpu.cfs_quota_us")
    period_text = _read(cgroup / "cpu/cpu.cfs_period_us")
    if quota_text and period_text and quota_text.isdigit() and period_text.isdigit():
        return int(quota_text) / int(period_text)
    return None


def governor(sysfs: Path = Path("/sys/devices/system/cpu")) -> str | None:
    """Return the frequency governor of the first CPU; null: the system shows none."""
    return _read(sysfs / "cpu0/cpufreq/scaling_governor")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _git_commit() -> tuple[str | None, bool | None]:
    try:
        commit = _git("rev-parse", "HEAD")
        return commit, bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
