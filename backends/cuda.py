"""GPUs under PyTorch's CUDA API: NVIDIA's, and AMD's where torch is built for ROCm.

The planning half. It looks for the driver and a device first, and imports torch in the probe child
only. It chooses no device: a rank takes the one of its local number, among those that
CUDA_VISIBLE_DEVICES shows.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue

from bench.backends import device_loader, host
from bench.backends.base import Backend, Device, Precompilation, Probe, Refusal, World
from bench.scenarios.schema import FLOAT8, Knobs

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")
"""Modes of inductor that record CUDA graphs and replay them."""
AHEAD = 1
"""Batches that the feed has copied, or is copying, while the step computes. Unit: micro-batches."""
LEAST_PERIODS, LEAST_PERIODS_RESIDENT = 100, 10
"""After a fence the device waits until the host has drawn a batch and launched the first kernel.
Drawing may take as long as a step where no worker does it, and is at most a hundredth of 100; with
batches that lie on the device the first kernel of many is all there is."""
_REMEDY = 'install it with: pip install "accelbench[cuda]"'
_NO_DEVICE_LOADER = (
    "it is a queue of torch_xla's device loader; here data.workers and data.prefetch prepare "
    "batches, and one is copied ahead"
)
_ADA, _AMPERE, _VOLTA = (8, 9), (8, 0), (7, 0)
_FLOAT8_ON_AMD = ("gfx942", "gfx950", "gfx120")
"""Architectures for which torch has scaled float8 products under ROCm."""


class CudaBackend(Backend):
    """The planning half.

    Args:
        root: The file system that is looked at.
        library: Name of the driver's library.
    """

    name: ClassVar[str] = "cuda"
    engines: ClassVar[Collection[str]] = ("accelerate", "deepspeed", "fsdp")

    def __init__(self, root: Path = Path("/"), library: str = "libcuda.so.1") -> None:
        self._root = root
        self._library = library

    def probe(self) -> Probe:
        """Look for a device, and only then import torch and open it."""
        if problem := self._no_device():
            return self._unavailable(*problem)
        for package in ("torch", "timm"):
            if importlib.util.find_spec(package) is None:
                return self._unavailable(
                    f"a GPU is visible, and {package} is not installed", _REMEDY
                )
        import torch

        from bench.backends import cuda_probe

        return cuda_probe.ask(torch)

    def devices(self) -> Mapping[str, Probe]:
        """Describe NVIDIA's generations as far as they differ here, and AMD's under ROCm."""

        def gpus(flavour: str = "cuda", **told: JsonValue) -> Probe:
            facts: dict[str, JsonValue] = {"nccl": "2", "alike": True, "torchao": True}
            facts |= {"triton": True, "cc": "gcc", **told}
            facts |= {"accelerate": True, "deepspeed": True}
            return Probe(
                backend=self.name,
                available=True,
                device_model="such a GPU",
                device_count=2,
                flavour=flavour,
                facts=facts,
            )

        return {
            "cuda, from 8.9 (Ada, Hopper, Blackwell)": gpus(capability=[9, 0]),
            "cuda, 8.0 to 8.7 (Ampere)": gpus(capability=[8, 0]),
            "cuda, 7.0 to 7.5 (Volta, Turing)": gpus(capability=[7, 5]),
            "cuda, AMD under ROCm (MI300)": gpus("rocm", capability=None, arch="gfx942"),
        }

    def environment(self, knobs: Knobs, probe: Probe) -> dict[str, str]:
        """Give each rank its threads, and leave the choice of TF32 to the case.

        The allocator's settings and CUDA_VISIBLE_DEVICES stay as the user has them.
        """
        # It would put TF32 into every product of float32, whatever the flags say.
        return host.environment(knobs) | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0"}

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        """Refuse what these GPUs, or this installation, cannot do."""
        return [
            *_precision(knobs, probe),
            *_float8(knobs, probe),
            *_compiling(knobs, probe),
            *_layout(knobs, probe),
        ]

    def open(self, knobs: Knobs, world: World) -> Device:
        """Open the GPU whose number is this rank's local one.

        Raises:
            ValueError: there is no such GPU.
        """
        import torch

        from bench.backends.cuda_device import CudaDevice

        visible = torch.cuda.device_count()
        if world.local_rank >= visible:
            raise ValueError(
                f"local rank {world.local_rank} has no GPU of its own: {visible} are visible; "
                "start fewer ranks on this machine"
            )
        return CudaDevice(knobs, torch.device("cuda", world.local_rank))

    def prefetched(self, knobs: Knobs) -> int:
        """Count the workers' batches, and the one that is copied ahead."""
        if knobs.data.source == "device":
            return 0
        return super().prefetched(knobs) + AHEAD

    def least_periods(self, knobs: Knobs) -> int:
        """Ask for so many that the first batch and launch after a fence cost at most 1 %."""
        return LEAST_PERIODS_RESIDENT if knobs.data.source == "device" else LEAST_PERIODS

    def compile_cache(self, knobs: Knobs, probe: Probe, folder: str) -> dict[str, str] | None:
        """Give inductor and Triton a folder: a warm one of the user's would hide a cold start."""
        if knobs.compile != "inductor":
            return None
        return {
            "TORCHINDUCTOR_CACHE_DIR": folder,
            "TORCHINDUCTOR_FX_GRAPH_CACHE": "1",
            "TRITON_CACHE_DIR": str(Path(folder) / "triton"),
        }

    def precompilation(self, knobs: Knobs, probe: Probe) -> Precompilation | Refusal | None:
        """Give each untimed run GPUs of its own: two would share a memory that is made for one.

        Inductor and Triton also time kernels there, to choose one.
        """
        if knobs.compile != "inductor":
            return None
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = shown.split(",") if shown else [str(number) for number in range(probe.device_count)]
        # AMD's runtime has variables of its own beside this one, which may choose already.
        if probe.flavour == "rocm" or not names:
            return Precompilation(alone=True)
        return Precompilation(devices=tuple(names), shown_by="CUDA_VISIBLE_DEVICES")

    def _no_device(self) -> tuple[str, str] | None:
        """Return why there is no GPU to open, with what to do; null: one is visible."""
        library = _loads(self._library)
        # Under WSL every GPU is /dev/dxg, and the library tells whose it is. AMD's have no driver
        # library of their own name: torch's build for ROCm finds them behind /dev/kfd.
        if (
            any(self._root.glob("dev/nvidia[0-9]*"))
            or (library and (self._root / "dev/dxg").exists())
            or (self._root / "dev/kfd").exists()
        ):
            return None
        if (self._root / "proc/driver/nvidia").exists() or library:
            return (
                "the NVIDIA driver is installed and no GPU is visible to this process",
                "in a container, pass the device (docker run --gpus all); "
                "else nvidia-smi says what is wrong",
            )
        return (
            "no NVIDIA driver or device is visible here",
            "run on a machine with an NVIDIA GPU and its driver (nvidia-smi lists it), or use "
            "--backend cpu or --backend xla, which measure on the host's processors",
        )

    def _unavailable(self, reason: str, remedy: str) -> Probe:
        return Probe(backend=self.name, available=False, reason=reason, remedy=remedy)


def _precision(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    asked = knobs.precision

    def refusal(reason: str) -> Refusal:
        return Refusal(knob="precision", value=asked, reason=reason)

    if asked == "bf16-env":
        yield refusal("XLA_USE_BF16 is read by torch_xla alone")
    if asked == "tf32" and probe.flavour == "rocm":
        yield refusal("TF32 is a format of NVIDIA's tensor cores, and this GPU is AMD's")
    elif asked == "tf32" and probe.facts.get("tf32_forbidden"):
        yield refusal("NVIDIA_TF32_OVERRIDE=0 forbids it to all libraries: unset the variable")
    if asked in ("tf32", "amp-bf16", "bf16") and _below(_AMPERE, probe):
        kind = "TF32" if asked == "tf32" else "bfloat16"
        yield refusal(
            f"{probe.device_model} has compute capability {_named(probe)}, and the tensor cores "
            f"multiply {kind} from 8.0 on; amp-fp16 is what it has"
        )


def _float8(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    asked = knobs.precision
    if asked not in FLOAT8:
        return

    def refusal(reason: str) -> Refusal:
        return Refusal(knob="precision", value=asked, reason=reason)

    if probe.flavour == "rocm":
        if not str(probe.facts.get("arch")).startswith(_FLOAT8_ON_AMD):
            yield refusal("AMD's GPUs multiply float8 from MI300 and RDNA4 on, and this is none")
    elif _below(_ADA, probe):
        yield refusal(
            f"{probe.device_model} has compute capability {_named(probe)}, and the tensor cores "
            "multiply float8 from 8.9 on"
        )
    if not probe.facts.get("torchao"):
        yield refusal('torchao is not installed: pip install "accelbench[fp8]"')
    if knobs.compile != "inductor":
        yield refusal(
            "only a compiler fuses the casts to float8 into the kernels around them, and without "
            "it they cost more than the products gain: set compile=inductor"
        )


def _compiling(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    def refusal(knob: str, value: JsonValue, reason: str) -> Refusal:
        return Refusal(knob=knob, value=value, reason=reason)

    if knobs.compile == "openxla":
        yield refusal("compile", "openxla", "openxla is torch_xla's compiler")
    if knobs.compile != "inductor":
        return
    if not probe.facts.get("triton"):
        yield refusal("compile", "inductor", "inductor needs Triton, which is not installed")
    if not probe.facts.get("cc"):
        yield refusal("compile", "inductor", "Triton needs a C compiler: install gcc or clang")
    if _below(_VOLTA, probe):
        reason = f"Triton needs compute capability 7.0, and this GPU has {_named(probe)}"
        yield refusal("compile", "inductor", reason)
    if knobs.compile_mode in CUDA_GRAPHS and knobs.gradient_accumulation > 1:
        yield refusal(
            "compile_mode",
            knobs.compile_mode,
            "a replayed CUDA graph writes its gradients over those that are being accumulated "
            "(pytorch issue 169545); max-autotune-no-cudagraphs does not",
        )


def _layout(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    """Refuse what concerns graphs of several batches, queues and processes."""
    yield from device_loader.absent(
        knobs,
        no_graph="kernels are launched one by one: no graph is built that could hold several "
        "batches",
        no_queue=_NO_DEVICE_LOADER,
    )
    if knobs.engine != "plain" and not probe.facts.get("nccl"):
        yield Refusal(knob="engine", value=knobs.engine, reason="this torch is built without NCCL")
    if knobs.local_processes > max(1, probe.device_count):
        yield Refusal(
            knob="processes",
            value=knobs.processes,
            reason=f"{probe.device_count} visible here: NCCL refuses ranks that share a GPU",
        )
    elif knobs.local_processes > 1 and not probe.facts.get("alike"):
        yield Refusal(
            knob="processes",
            value=knobs.processes,
            reason="the visible GPUs are not of one model, and the row would carry the name of the "
            "first: choose equal ones with CUDA_VISIBLE_DEVICES",
        )


def _below(least: tuple[int, int], probe: Probe) -> bool:
    """Return whether the compute capability is lower; AMD's GPUs have none."""
    capability = probe.facts.get("capability")
    return isinstance(capability, list) and [*least] > capability  # type: ignore[operator]


def _named(probe: Probe) -> str:
    capability = probe.facts["capability"]
    return ".".join(map(str, capability)) if isinstance(capability, list) else "none"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
