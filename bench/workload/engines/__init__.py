"""Who drives the step over the ranks: the contract, and one file for each kind of engine.

An engine prepares the model, says when gradients are to be exchanged, and describes what really
runs, so that a silent substitution shows. What is heavy to import is imported when it is asked for.
"""

from __future__ import annotations

from pathlib import Path

from bench.backends.base import Device, World
from bench.scenarios.schema import Knobs
from bench.workload.engines.base import Engine, MakeOptimizer, NotWithoutExchange, Prepared
from bench.workload.engines.replicated import DdpEngine, PlainEngine

__all__ = [
    "DdpEngine",
    "Engine",
    "MakeOptimizer",
    "NotWithoutExchange",
    "PlainEngine",
    "Prepared",
    "make",
]


def make(knobs: Knobs, world: World, device: Device, folder: Path | None = None) -> Engine:
    """Return the engine that a case asks for.

    Args:
        knobs: Of the case.
        world: This process's place.
        device: Where it runs.
        folder: Of the launch, for temporary files; needed where something is kept in files.
    """
    if knobs.engine == "ddp":
        return DdpEngine(device.ddp_options)
    if knobs.engine == "fsdp":
        from bench.workload.engines.fsdp import FsdpEngine

        return FsdpEngine(knobs.fsdp, device)
    if knobs.engine == "accelerate":
        from bench.workload.engines.accelerate import AccelerateEngine

        return AccelerateEngine(knobs, world, device)
    if knobs.engine == "deepspeed":
        from bench.workload.engines.deepspeed import DeepspeedEngine

        return DeepspeedEngine(knobs, world, device, folder)
    if knobs.engine == "spmd":
        from bench.workload.engines.spmd import SpmdEngine

        return SpmdEngine(device)
    if world.size != 1:
        raise ValueError(f"engine=plain in a world of {world.size}: the schema refuses this")
    return PlainEngine()
