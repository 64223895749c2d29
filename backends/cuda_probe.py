"""What the probe child asks torch and the driver about the GPUs that this process sees.

It opens the first of them and computes with it: a driver that is too old for torch, or a torch that
has no code for the GPU, shows then and not before.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

from pydantic import JsonValue

from bench.backends import async_io, nvml
from bench.backends.base import Probe
from bench.backends.nvml import Telemetry, Unseen

NAME = "cuda"
PREFERRED = 100
_OTHER_BUILD = (
    "install a build of torch for this GPU (https://pytorch.org/get-started/locally), or use "
    "--backend cpu"
)
_BROKEN = (
    "compare the driver's CUDA version (nvidia-smi) with torch's "
    "(python -c 'import torch; print(torch.version.cuda)'), and update the older one"
)
AMD_UNTOLD = "NVML speaks to NVIDIA's driver, and this GPU is AMD's"


def ask(torch: Any, telemetry: Callable[[str], Telemetry] = nvml.find) -> Probe:
    """Return what is here.

    Args:
        torch: The module.
        telemetry: Opens a GPU, given its UUID, as its driver sees it.
    """
    hip = torch.version.hip
    if torch.version.cuda is None and hip is None:
        return _unavailable(
            f"a GPU is visible, and torch {torch.__version__} is a build without CUDA", _OTHER_BUILD
        )
    try:
        torch.cuda.init()
        count = int(torch.cuda.device_count())
        models = [torch.cuda.get_device_properties(index) for index in range(count)]
        one = torch.ones(1, device="cuda")
        computed = float((one + one).cpu())
    except (AssertionError, RuntimeError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return _unavailable(f"torch {torch.__version__} opens no GPU: {first_line}", _BROKEN)
    if computed != 2.0:  # noqa: PLR2004 - one and one
        return _unavailable(f"the first GPU computes 1 + 1 = {computed}", _BROKEN)
    first = models[0]
    seen = Unseen(AMD_UNTOLD) if hip else telemetry(str(first.uuid))
    facts: dict[str, JsonValue] = {
        "capability": None if hip else [int(first.major), int(first.minor)],
        "cuda": torch.version.cuda,
        "hip": hip,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": _nccl(torch),
        "memory_bytes": int(first.total_memory),
        "alike": len({model.name for model in models}) == 1,
        "triton": importlib.util.find_spec("triton") is not None,
        "cc": _c_compiler(),
        "torchao": importlib.util.find_spec("torchao") is not None,
        "accelerate": importlib.util.find_spec("accelerate") is not None,
        "deepspeed": importlib.util.find_spec("deepspeed") is not None,
        "async_io": async_io.missing("cuda"),
        "arch": str(first.gcnArchName) if hip else None,
        "tf32_forbidden": os.environ.get("NVIDIA_TF32_OVERRIDE") == "0",
    }
    # What a later moment may tell differently belongs to the launch that saw it.
    told = {name: seen.facts().get(name) for name in ("driver", "power_limit_w", "ecc", "mig")}
    warnings = seen.warnings()
    if os.environ.get("CUDA_LAUNCH_BLOCKING") == "1":
        warnings.append("CUDA_LAUNCH_BLOCKING=1 waits for every kernel: unset it")
    seen.close()
    return Probe(
        backend=NAME,
        available=True,
        device_model=str(first.name),
        device_count=count,
        flavour="rocm" if hip else "cuda",
        preferred=PREFERRED,
        facts=facts | told,
        warnings=warnings,
    )


def _nccl(torch: Any) -> str | None:
    """Return the version of NCCL, or of RCCL under its name; null: torch has none."""
    if not (torch.distributed.is_available() and torch.distributed.is_nccl_available()):
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))


def _c_compiler() -> str | None:
    named = os.environ.get("CC")
    return next((cc for cc in (named, "cc", "gcc", "clang") if cc and shutil.which(cc)), None)


def _unavailable(reason: str, remedy: str) -> Probe:
    return Probe(backend=NAME, available=False, reason=reason, remedy=remedy)
