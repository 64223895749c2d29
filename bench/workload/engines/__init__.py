"""Who drives the step over the ranks: the contract, and one file for each kind of engine.

An engine prepares the model, says when gradients are to be exchanged, and describes what really
runs, so that a silent substitution shows. What is heavy to import is imported when it is asked for.
"""

from __future__ import annotations

from bench.backends.base import Device, World
from bench.scenarios.schema import Knobs
from bench.workload.engines.base import Engine, MakeOptimizer, Prepared
from bench.workload.engines.replicated import DdpEngine, PlainEngine

__all__ = ["DdpEngine", "Engine", "MakeOptimizer", "PlainEngine", "Prepared", "make"]


def make(knobs: Knobs, world: World, device: Device) -> Engine:
    """Return the engine that a case asks for."""
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

        return DeepspeedEngine(knobs, world, device)
    if world.size != 1:
        raise ValueError(f"engine=plain in a world of {world.size}: the schema refuses this")
    return PlainEngine()
