"""PyTorch/XLA: lazily built graphs on the host's processors (PJRT CPU) or on a TPU.

The planning half. It never imports torch or torch_xla outside `probe` and `open`: importing
torch_xla reads the environment and writes to it, so everything is decided before. It does not know
how a graph is cut or waited for; that is the worker half, `bench.backends.xla_device`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue

from bench.backends import host
from bench.backends.base import Backend, Device, Precompilation, Probe, Refusal, World
from bench.scenarios.schema import FLOAT8, Knobs

LOADER_PREFETCH = 16
DEVICE_PREFETCH = 8
TRANSFER_THREADS = 1
"""The device loader's own defaults in torch_xla 2.9, for what the knobs leave null."""

LEAST_PERIODS = 100
"""Tracing a graph takes at most about as long as executing it, or the host would be the limit."""
_OLDEST = (2, 9)
_KNOWN_DEVICES = ("CPU", "TPU")
_REMEDY = 'install a matching pair with: pip install "accelbench[xla]"'
_BARRIER_REMOVAL = "cse_barrier_expander"
"""The pass by which XLA's CPU compiler drops the barrier around a recomputation, before its
common-subexpression elimination merges the recomputation with the original: nothing would be
computed again."""
_NO_CACHE_ON_CPU = (
    "PJRT CPU writes a compile cache that it cannot load again: every launch compiles anew"
)
_PCI = Path("/sys/bus/pci/devices")
_GOOGLE, _ACCELERATOR_CLASS = "0x1ae0", "0x12"


class XlaBackend(Backend):
    """The planning half."""

    name: ClassVar[str] = "xla"
    engines: ClassVar[Collection[str]] = ("spmd",)
    memory_words: ClassVar[Collection[str]] = ("RESOURCE_EXHAUSTED",)

    def probe(self) -> Probe:
        """Import torch_xla under the environment a case would get, and open its first device."""
        if problem := installation_problem():
            return self._unavailable(*problem)
        pjrt = os.environ.get("PJRT_DEVICE") or ("TPU" if _usable_tpu() else "CPU")
        if pjrt not in _KNOWN_DEVICES:
            return self._unavailable(
                f"PJRT_DEVICE={pjrt} is a device that this adapter does not know",
                f"unset PJRT_DEVICE, or set it to {' or '.join(_KNOWN_DEVICES)}",
            )
        os.environ.update(device_environment(pjrt))
        try:
            import torch_xla
            import torch_xla.core.xla_model as xm
            import torch_xla.runtime as xr

            kind = str(xm.xla_device_kind(torch_xla.device()))
            flavour, count = str(xr.device_type()), int(xr.addressable_device_count())
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            return self._unavailable(
                f"torch_xla does not open a device with PJRT_DEVICE={pjrt}: {first_line}",
                "unset PJRT_DEVICE to measure on the host's processors"
                if pjrt != "CPU"
                else _REMEDY,
            )
        on_cpu = flavour == "CPU"
        return Probe(
            backend=self.name,
            available=True,
            device_model=f"{host.processor()} (PJRT CPU)" if on_cpu else kind,
            device_count=count,
            flavour=flavour,
            preferred=5 if on_cpu else 50,
            facts={"pjrt": flavour},
            warnings=_warnings(flavour),
        )

    def devices(self) -> Mapping[str, Probe]:
        """Describe the host's processors and a TPU."""

        def device(pjrt: str, count: int) -> Probe:
            return Probe(
                backend=self.name,
                available=True,
                device_count=count,
                flavour=pjrt,
                facts={"pjrt": pjrt},
            )

        return {"xla on PJRT CPU": device("CPU", 1), "xla on a TPU": device("TPU", 2)}

    def environment(self, knobs: Knobs, probe: Probe) -> dict[str, str]:
        """Choose the device, the type of a float32 and the size of the thread pool.

        All of these are read once, when torch_xla is imported or its runtime starts.
        """
        pjrt = str(probe.facts["pjrt"])
        chosen = device_environment(pjrt) | {
            "XLA_USE_BF16": "1" if knobs.precision == "bf16-env" else "0",
            "XLA_DOWNCAST_BF16": "0",
        }
        if pjrt == "CPU":
            # XLA's pool does not follow torch.set_num_threads or OMP_NUM_THREADS: its size is
            # NPROC, else the number of visible CPUs.
            threads = str(knobs.threads or host.cpus_visible())
            chosen |= {"NPROC": threads, "OMP_NUM_THREADS": threads}
            chosen["CPU_NUM_DEVICES"] = str(knobs.devices_per_process)
            if knobs.activation_checkpointing:
                flags = os.environ.get("XLA_FLAGS", "")
                chosen["XLA_FLAGS"] = _disabling(_BARRIER_REMOVAL, flags)
        return chosen

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        """Refuse what XLA does not do, does without being asked, or only seems to do."""
        found: list[Refusal] = []

        def refuse(knob: str, value: JsonValue, reason: str) -> None:
            found.append(Refusal(knob=knob, value=value, reason=reason))

        on_cpu = probe.facts.get("pjrt") == "CPU"
        if knobs.precision == "tf32":
            refuse("precision", "tf32", "TF32 is a format of NVIDIA's tensor cores")
        if knobs.compile == "inductor":
            refuse(
                "compile", "inductor", "inductor generates no code for XLA tensors; openxla does"
            )
        if knobs.processes > 1 and (reason := _why_not_several(knobs, probe, on_cpu=on_cpu)):
            refuse("processes", knobs.processes, reason)
        if knobs.engine == "ddp" and (on_cpu or knobs.processes == 1):
            refuse("engine", "ddp", "ddp needs a process group, and one XLA process has none")
        if knobs.engine == "spmd":
            found += _spmd(knobs, probe, on_cpu=on_cpu)
        if knobs.threads is not None and not on_cpu:
            refuse("threads", knobs.threads, "the work runs on the TPU, not on host threads")
        return [*found, *on_lazy_graphs(knobs)]

    def open(self, knobs: Knobs, world: World) -> Device:
        """Open the first XLA device of this process, or all of them for SPMD."""
        if world.size != 1:
            if os.environ.get("PJRT_DEVICE") != "TPU":
                raise ValueError(f"a world of {world.size} on xla: the plan refuses this")
            from bench.backends.xla_tpu import TpuDevice

            return TpuDevice(knobs, world)
        if knobs.engine == "spmd":
            from bench.backends.xla_spmd import SpmdDevice

            return SpmdDevice(knobs)
        from bench.backends.xla_device import XlaDevice

        return XlaDevice(knobs)

    def first_cut(self, knobs: Knobs) -> int:
        """Return one less than a later graph holds: the cut comes before batch N is handed out."""
        return knobs.loader.batches_per_execution - 1

    def prefetched(self, knobs: Knobs) -> int:
        """Count the workers, both queues of the device loader, and what its threads hold."""
        if knobs.data.source == "device":
            return 0
        loader = knobs.loader
        on_device = loader.device_prefetch or DEVICE_PREFETCH
        # A transfer thread collects as many host batches as the device queue holds and sends them
        # together; one more batch is in the hand of the thread that reads the host loader.
        in_transfer = (loader.transfer_threads or TRANSFER_THREADS) * on_device
        queued = (loader.prefetch or LOADER_PREFETCH) + on_device + in_transfer + 1
        return super().prefetched(knobs) + queued

    def least_periods(self, knobs: Knobs) -> int:
        """Ask for so many graphs that tracing the first of them, alone, costs at most 1 %."""
        return LEAST_PERIODS

    def compile_cache(self, knobs: Knobs, probe: Probe, folder: str) -> dict[str, str] | None:
        """Keep executables in `folder` on a TPU.

        PJRT CPU writes such a cache and fails to load it: every launch compiles anew.
        """
        if probe.facts.get("pjrt") == "CPU":
            return None
        return {"XLA_PERSISTENT_CACHE_PATH": folder, "XLA_PERSISTENT_CACHE_READ_ONLY": "0"}

    def precompilation(self, knobs: Knobs, probe: Probe) -> Precompilation | Refusal | None:
        """Compile one case after the other on a TPU, which is one process's; not on PJRT CPU."""
        if probe.facts.get("pjrt") == "CPU":
            return Refusal(knob="--precompile", value=True, reason=_NO_CACHE_ON_CPU)
        return Precompilation(alone=True)

    def _unavailable(self, reason: str, remedy: str) -> Probe:
        return Probe(backend=self.name, available=False, reason=reason, remedy=remedy)


_APART = (
    "processes on PJRT CPU do not communicate: each sees a world of one, and an all-reduce returns "
    "its input without an error; engine=spmd has virtual devices of one process share a batch"
)


def _why_not_several(knobs: Knobs, probe: Probe, *, on_cpu: bool) -> str | None:
    """Return what speaks against so many processes; null: nothing."""
    if on_cpu:
        return _APART
    if knobs.local_processes == probe.device_count:
        return None
    return (
        "torch_xla joins all chips of a machine, a process each, and here these are "
        f"{probe.device_count}"
    )


def _spmd(knobs: Knobs, probe: Probe, *, on_cpu: bool) -> list[Refusal]:
    """Return what does not go with a graph that is divided over devices."""
    found: list[Refusal] = []
    if not on_cpu and knobs.spmd.devices != probe.device_count:
        found.append(
            Refusal(
                knob="spmd.devices",
                value=knobs.spmd.devices,
                reason="SPMD divides a graph over all devices that the process opens, and here "
                f"these are {probe.device_count}",
            )
        )
    return found


_NO_FP16 = {
    "train": "its loss scaling reads on the host, at every update, whether a gradient overflowed, "
    "which cuts the graph there; amp-bf16 needs no scaling",
    "infer": "torch_xla's autocast is for bfloat16: its own class switches itself off, with a "
    "warning, for any other type; use amp-bf16",
}


def on_lazy_graphs(knobs: Knobs) -> list[Refusal]:
    """Return what is refused wherever torch_xla builds the graphs."""
    found: list[Refusal] = []

    def refuse(knob: str, value: JsonValue, reason: str) -> None:
        found.append(Refusal(knob=knob, value=value, reason=reason))

    if knobs.precision in FLOAT8:
        refuse(
            "precision",
            knobs.precision,
            "torch_xla lowers none of the scaled float8 products that torchao makes",
        )
    if knobs.precision == "amp-fp16":
        refuse("precision", "amp-fp16", _NO_FP16[knobs.task])
    if knobs.optimizer_impl == "fused":
        refuse("optimizer_impl", "fused", "torch has no fused update kernel for XLA tensors")
    if knobs.optimizer_impl == "capturable":
        refuse("optimizer_impl", "capturable", "it serves CUDA graphs, which XLA has not")
    if knobs.channels_last:
        refuse("channels_last", True, "XLA chooses the memory layout of every tensor itself")
    if knobs.data.pin_memory:
        refuse("data.pin_memory", True, "transfers to an XLA device use no page-locked memory")
    return [*found, *_loader_refusals(knobs)]


def _loader_refusals(knobs: Knobs) -> list[Refusal]:
    found = []
    if knobs.compile == "openxla" and knobs.loader.batches_per_execution > 1:
        found.append(
            Refusal(
                knob="loader.batches_per_execution",
                value=knobs.loader.batches_per_execution,
                reason="with compile=openxla the compiled forward, backward and update are "
                "executed as they are called: the later cut has nothing to gather",
            )
        )
    if knobs.data.source == "device":
        found += [
            Refusal(
                knob=f"loader.{name}",
                value=value,
                reason="with data.source=device every batch lies on the device already",
            )
            for name in ("prefetch", "device_prefetch", "transfer_threads")
            if (value := getattr(knobs.loader, name)) is not None
        ]
    return found


def device_environment(pjrt: str) -> dict[str, str]:
    """Return the variables by which torch_xla opens a device of that type, and nothing else."""
    if pjrt != "CPU":
        return {"PJRT_DEVICE": pjrt}
    return {
        "PJRT_DEVICE": pjrt,
        "CPU_NUM_DEVICES": "1",
        # Installed plug-ins of other devices would be loaded, and may log or start a runtime.
        "XLA_REGISTER_INSTALLED_PLUGINS": "0",
        "XLA_PERSISTENT_CACHE_PATH": "",
    }


def _disabling(name: str, flags: str) -> str:
    """Return XLA_FLAGS with one more compiler pass switched off."""
    option = "--xla_disable_hlo_passes="
    others = [flag for flag in flags.split() if not flag.startswith(option)]
    passes = [flag.removeprefix(option) for flag in flags.split() if flag.startswith(option)]
    return " ".join([*others, option + ",".join([*passes, name])])


def installation_problem() -> tuple[str, str] | None:
    """Return why torch_xla cannot be imported here, with a remedy; null: nothing speaks against."""
    if not sys.platform.startswith("linux"):
        return "torch_xla is built for Linux only", "run it on Linux, or in a Linux container"
    for package in ("torch", "torch_xla", "timm"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed", _REMEDY
    torch, torch_xla = (_installed(name) for name in ("torch", "torch_xla"))
    if minor(torch) != minor(torch_xla):
        return (
            f"torch {torch} is installed beside torch_xla {torch_xla}: they share compiled code "
            "and must be of the same minor version",
            _REMEDY,
        )
    if minor(torch_xla) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        return f"torch_xla {torch_xla} is older than {oldest}, the oldest supported", _REMEDY
    return None


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def minor(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _usable_tpu(pci: Path = _PCI) -> bool:
    return _has_tpu(pci) and _has_libtpu()


def _has_tpu(pci: Path = _PCI) -> bool:
    # Google's network cards have the same vendor number, so the device class decides.
    for vendor in pci.glob("*/vendor"):
        if vendor.read_text(encoding="ascii").strip() == _GOOGLE:
            device_class = (vendor.parent / "class").read_text(encoding="ascii")
            if device_class.startswith(_ACCELERATOR_CLASS):
                return True
    return False


def _has_libtpu() -> bool:
    return "TPU_LIBRARY_PATH" in os.environ or importlib.util.find_spec("libtpu") is not None


def _warnings(flavour: str) -> list[str]:
    if flavour == "CPU" and _has_tpu() and not _has_libtpu():
        return [
            "a TPU is attached and libtpu is not installed, so the host's processors are measured: "
            "pip install 'torch_xla[tpu]'"
        ]
    return []
