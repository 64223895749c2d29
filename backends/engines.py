"""Engines of a library, put to an adapter: whether it is for them, and what they do nowhere.

An adapter names the engines that drive its devices (`Backend.engines`). `plain` and `ddp` it
refuses by itself where it must; one that was written before the others came cannot know of them.
Torch-free.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from pydantic import JsonValue

from bench.backends.base import Backend, Probe, Refusal
from bench.scenarios.schema import Knobs

OF_EVERY_ADAPTER = ("plain", "ddp")
PACKAGES = ("accelerate", "deepspeed")
"""Engines that are packages of their own; the extra that installs each has its name."""
_OF_ACCELERATE = ("ACCELERATE_", "FSDP_")
"""How the variables begin that accelerate's launcher sets, and accelerate reads."""
_OF_MESSAGES = ("ACCELERATE_DISABLE_RICH", "ACCELERATE_ENABLE_RICH", "ACCELERATE_LOG_LEVEL")
"""Those that change what it says, and nothing that is trained."""
_OF_DEEPSPEED = "DS_ACCELERATOR"
"""By which DeepSpeed is told what kind of device it is for, as the adapter's device does."""
_SAID_UNSEEN = "the environment says it, where the row would not show it: unset it there"


def refusals(backend: Backend, knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    """Yield what stands in the way of the engine that a case asks for."""
    engine = knobs.engine or "plain"
    if engine in OF_EVERY_ADAPTER:
        return
    if engine not in backend.engines:
        known = " and ".join(sorted({*OF_EVERY_ADAPTER, *backend.engines}))
        reason = f"it does not drive the devices of {backend.name}, whose adapter knows {known}"
        yield Refusal(knob="engine", value=engine, reason=reason)
        return
    if engine in PACKAGES and probe.facts.get(engine) is False:
        reason = f'{engine} is not installed: pip install "accelbench[{engine}]"'
        yield Refusal(knob="engine", value=engine, reason=reason)
    if engine == "fsdp":
        yield from _fsdp(knobs)
    if engine == "accelerate":
        yield from _accelerate(knobs)
    if engine == "deepspeed":
        yield from _deepspeed(knobs)
        yield from _in_files(knobs, probe)
        told = os.environ.get(_OF_DEEPSPEED, backend.name)
        if told != backend.name:
            yield _refusal(_OF_DEEPSPEED, told, f"{_SAID_UNSEEN}, and choose --backend")
    on_the_host = knobs.fsdp.offload == "cpu" or knobs.zero.offload_optimizer in ("cpu", "nvme")
    if knobs.optimizer_impl == "capturable" and on_the_host:
        yield _refusal(
            "optimizer_impl",
            "capturable",
            f"it serves CUDA graphs, and with {knobs.offloads} the host computes the update",
        )


def _fsdp(knobs: Knobs) -> Iterator[Refusal]:
    if knobs.channels_last:
        reason = "FSDP2 shards contiguous weights only: leave them in their usual order"
        yield _refusal("channels_last", True, reason)
    if knobs.precision == "amp-fp16" and knobs.fsdp.offload == "cpu":
        reason = "the devices agree on whether a gradient overflows, and these lie on the host"
        yield _refusal("precision", "amp-fp16", reason)


def _accelerate(knobs: Knobs) -> Iterator[Refusal]:
    if knobs.precision == "amp-fp16":
        reason = "accelerate scales the loss by itself, and its skipped updates are not counted"
        yield _refusal("precision", "amp-fp16", reason)
    for name in sorted(os.environ):
        if name.startswith(_OF_ACCELERATE) and name not in _OF_MESSAGES:
            reason = f"{_SAID_UNSEEN}, and set the knobs, or a file as accelerate.config"
            yield _refusal(name, os.environ[name], reason)


def _deepspeed(knobs: Knobs) -> Iterator[Refusal]:
    if knobs.precision == "bf16":
        yield _refusal(
            "precision",
            "bf16",
            "DeepSpeed trains bfloat16 weights by float32 copies of them, which is another "
            "precision: amp-bf16 is the same under every engine",
        )
    if knobs.precision == "amp-fp16":
        yield _refusal(
            "precision",
            "amp-fp16",
            "DeepSpeed scales the loss by itself, and does not tell of the updates that it skips",
        )
    if knobs.compile != "none":
        yield _refusal(
            "compile",
            knobs.compile,
            "torch.compile would trace DeepSpeed's own bookkeeping around the model, and what "
            "DeepSpeed compiles by itself has other modes",
        )
    if knobs.channels_last and knobs.zero.stage:
        reason = "ZeRO lays weights out in flat buffers in their usual order"
        yield _refusal("channels_last", True, reason)


def _in_files(knobs: Knobs, probe: Probe) -> Iterator[Refusal]:
    lacks = probe.facts.get("async_io")
    for knob in ("offload_optimizer", "offload_param"):
        if lacks is not None and getattr(knobs.zero, knob) == "nvme":
            reason = f"DeepSpeed's async_io, which writes the files, cannot be used here: {lacks}"
            yield _refusal(f"zero.{knob}", "nvme", reason)


def _refusal(knob: str, value: JsonValue, reason: str) -> Refusal:
    return Refusal(knob=knob, value=value, reason=reason)
