"""Eager PyTorch on the host's processors, with inductor where a C++ compiler is at hand."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from pydantic import JsonValue

from bench.backends import async_io, device_loader, host
from bench.backends.base import (
    Backend,
    ClockRates,
    Counters,
    Device,
    EnergyCount,
    Precompilation,
    Probe,
    Refusal,
    World,
)
from bench.backends.host_clocks import HostClocks
from bench.backends.rapl import Rapl
from bench.scenarios.schema import FLOAT8, Knobs

EMULATE_VARIABLE = "BENCH_EMULATE_FP8"
"""Set to 1, it lets float8 be emulated, for tests: such a row says so and is suspect."""
_REMEDY = 'install it with: pip install "accelbench[cpu]"'
_NO_DEVICE_LOADER = "the CPU has no device loader: host batches are used where they lie"


class CpuBackend(Backend):
    """The planning half."""

    name: ClassVar[str] = "cpu"
    engines: ClassVar[Collection[str]] = ("accelerate", "deepspeed", "fsdp")

    def probe(self) -> Probe:
        """Import torch and look for a compiler."""
        for package in ("torch", "timm"):
            if importlib.util.find_spec(package) is None:
                return Probe(
                    backend=self.name,
                    available=False,
                    reason=f"{package} is not installed",
                    remedy=_REMEDY,
                )
        import torch

        compiler = os.environ.get("CXX", "g++")
        bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        warnings = []
        emulated = os.environ.get(EMULATE_VARIABLE) == "1"
        if emulated:
            warnings.append(
                f"{EMULATE_VARIABLE}=1: fp8 is emulated, for tests alone; its rows are suspect"
            )
        if not bf16:
            warnings.append(
                "this processor has no bfloat16 instructions: amp-bf16 and bf16 run by conversion "
                "and may be slower than fp32"
            )
        return Probe(
            backend=self.name,
            available=True,
            device_model=host.processor(),
            device_count=1,
            preferred=10,
            facts={
                "cpus": host.cpus_visible(),
                "cxx": compiler if shutil.which(compiler) else None,
                "bf16_instructions": bf16,
                "fp16_instructions": bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()),
                "float8_emulated": emulated,
                "torchao": importlib.util.find_spec("torchao") is not None,
                "accelerate": importlib.util.find_spec("accelerate") is not None,
                "deepspeed": importlib.util.find_spec("deepspeed") is not None,
                "async_io": async_io.missing("cpu"),
            },
            warnings=warnings,
        )

    def devices(self) -> Mapping[str, Probe]:
        """Describe processors without fp16 instructions, which most are, and with them."""
        facts: dict[str, JsonValue] = {"cpus": 2, "cxx": "g++", "bf16_instructions": True}
        facts |= {"accelerate": True, "deepspeed": True}

        def processor(fp16: bool) -> Probe:
            return Probe(
                backend=self.name,
                available=True,
                device_count=1,
                facts={**facts, "fp16_instructions": fp16},
            )

        return {"cpu": processor(False), "cpu with fp16 instructions": processor(True)}

    def environment(self, knobs: Knobs, probe: Probe) -> dict[str, str]:
        """Give each rank its threads, and keep gloo on the loopback."""
        return host.environment(knobs)

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        """Refuse what needs a graph, a device memory or a compiler that is not there."""
        found: list[Refusal] = []

        def refuse(knob: str, value: JsonValue, reason: str) -> None:
            found.append(Refusal(knob=knob, value=value, reason=reason))

        if reason := _no_such_precision(knobs, probe):
            refuse("precision", knobs.precision, reason)
        if knobs.compile == "openxla":
            refuse("compile", knobs.compile, "openxla is torch_xla's compiler")
        if knobs.compile == "inductor" and not probe.facts.get("cxx"):
            refuse("compile", knobs.compile, "inductor needs a C++ compiler, and no g++ is found")
        if knobs.compile_mode == "reduce-overhead":
            refuse("compile_mode", knobs.compile_mode, "it means CUDA graphs, which a CPU has not")
        if knobs.optimizer_impl == "capturable":
            refuse("optimizer_impl", "capturable", "it serves CUDA graphs, which a CPU has not")
        found += device_loader.absent(
            knobs,
            no_graph="eager execution builds no graph that could hold several batches",
            no_queue=_NO_DEVICE_LOADER,
        )
        if knobs.data.pin_memory:
            refuse("data.pin_memory", True, "there is no copy to a device that pinning could speed")
        cpus = probe.facts.get("cpus", host.cpus_visible())
        if isinstance(cpus, int) and 1 < knobs.local_processes > cpus:
            refuse(
                "processes",
                knobs.processes,
                f"only {cpus} CPUs are visible: ranks would share one",
            )
        return found

    def open(self, knobs: Knobs, world: World) -> Device:
        """Open the host's processors with this rank's share of the threads."""
        alone = knobs.data.workers == 0 and knobs.local_processes == 1
        return CpuDevice(host.threads_per_rank(knobs), alone=alone)

    def two_at_once(self, knobs: Knobs, probe: Probe) -> bool:
        """Any number of processes share the processors, and one that waits uses none."""
        return True

    def host_threads(self, knobs: Knobs) -> int | None:
        """Count the threads of its operators; a compiler has a pool of its own."""
        return host.threads_per_rank(knobs) if knobs.compile == "none" else None

    def compile_cache(self, knobs: Knobs, probe: Probe, folder: str) -> dict[str, str] | None:
        """Give inductor a folder; torch's header precompiled for all programs stays outside."""
        if knobs.compile != "inductor":
            return None
        return {"TORCHINDUCTOR_CACHE_DIR": folder, "TORCHINDUCTOR_FX_GRAPH_CACHE": "1"}

    def precompilation(self, knobs: Knobs, probe: Probe) -> Precompilation | Refusal | None:
        """Let untimed runs share the processors, unless inductor times kernels to choose one."""
        if knobs.compile != "inductor":
            return None
        return Precompilation(alone=(knobs.compile_mode or "").startswith("max-autotune"))


def _no_such_precision(knobs: Knobs, probe: Probe) -> str | None:
    """Return why the precision cannot be had here; null: it can."""
    if knobs.precision == "bf16-env":
        return "XLA_USE_BF16 is read by torch_xla alone"
    if knobs.precision == "tf32":
        return "TF32 is a format of NVIDIA's tensor cores"
    if knobs.precision in FLOAT8 and not probe.facts.get("float8_emulated"):
        return "no processor multiplies float8: it would be emulated, and slower than fp32"
    if knobs.precision in FLOAT8 and not probe.facts.get("torchao"):
        return 'torchao, which emulates it, is not installed: pip install "accelbench[fp8]"'
    if knobs.precision == "amp-fp16" and not probe.facts.get("fp16_instructions"):
        return (
            "this processor has no fp16 instructions: every product would be converted, and take "
            "ten times as long as in fp32"
        )
    return None


class CpuDevice(Device):
    """The working half: work is done when a call returns, so the fence has nothing to wait for."""

    process_group: ClassVar[str | None] = "gloo"
    emulates_float8: ClassVar[bool] = True
    own_memory: bool | None = False

    def __init__(self, threads: int, *, alone: bool = True) -> None:
        import torch

        from bench.backends.dynamo import DynamoCounter

        torch.set_num_threads(threads)
        self.torch_device = torch.device("cpu")
        self._dynamo = DynamoCounter()
        self._rapl = Rapl()
        # Loader workers and other ranks of ours may share the core, and tell of nobody else.
        self._clocks = HostClocks(paced=alone)
        self._peak_is_reset = False

    def fence(self) -> None:
        """Return at once: eager CPU operators are synchronous."""

    def feed(self, batches: Iterable[Any], knobs: Knobs) -> Iterator[Any]:
        """Hand out host batches as they are."""
        return iter(batches)

    def counters(self) -> Counters:
        """Count compilations by dynamo; eager operators are not executions of a graph."""
        return self._dynamo.counters()

    def reset_peak_memory(self) -> None:
        """Begin the peak of the process's resident memory anew."""
        self._peak_is_reset = host.reset_peak_rss()

    def peak_memory_bytes(self) -> int | None:
        """Return the process's peak resident memory: the host is the device."""
        return host.peak_rss_bytes() if self._peak_is_reset else None

    def memory_bytes(self) -> int | None:
        """Return what the process holds, without the files it maps."""
        return host.anonymous_bytes()

    def energy(self) -> EnergyCount:
        """Read RAPL's package counters."""
        return self._rapl.read()

    def clocks(self) -> ClockRates | None:
        """Read the clock of this thread's CPU, and the thermal counters of all."""
        return self._clocks.read()

    def describe(self) -> dict[str, JsonValue]:
        """Read the thread counts back from torch."""
        import torch

        return {"device": "cpu", "threads": torch.get_num_threads()}

    def close(self) -> None:
        """Stop counting compilations."""
        self._dynamo.close()
