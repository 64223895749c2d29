"""A third party's backend for the tests: eager, cheap to start, and dishonest on demand.

Which lie its device tells stands in `model_kwargs.device`, so that one scenario can hold them all.
It registers by an entry point like any other adapter and imports torch in the worker only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import JsonValue

from bench.backends.base import (
    Backend,
    CompileFailed,
    Counters,
    Device,
    Precompilation,
    Probe,
    Refusal,
    World,
)
from bench.scenarios.schema import Knobs


class ToyBackend(Backend):
    name: ClassVar[str] = "toy"

    def probe(self) -> Probe:
        return Probe(
            backend="toy",
            available=True,
            device_model="Toy One",
            device_count=1,
            simulated=os.environ.get("TOY_SIMULATED") == "1",
        )

    def environment(self, knobs: Knobs, probe: Probe) -> dict[str, str]:
        return {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        if not knobs.channels_last:
            return []
        return [Refusal(knob="channels_last", value=True, reason="a toy has one memory order")]

    def open(self, knobs: Knobs, world: World) -> Device:
        return ToyDevice(manner_of(knobs))

    def compile_cache(self, knobs: Knobs, probe: Probe, folder: str) -> dict[str, str] | None:
        return {"TOY_CACHE": folder} if manner_of(knobs).startswith("notes") else None

    def precompilation(self, knobs: Knobs, probe: Probe) -> Precompilation | Refusal | None:
        if manner_of(knobs).startswith("notes"):
            return Precompilation(variables={"TOY_NOTES": "1"}, notes=True, compilers=1)
        return super().precompilation(knobs, probe)

    def compile_noted(self, jobs: int) -> int:
        if "TOY_NOTES" in os.environ:
            raise RuntimeError("told to note, and not to compile")
        graphs = list(Path(os.environ["TOY_CACHE"]).glob("*.graph"))
        for graph in graphs:
            print(f"toycc: compiling {graph.name}, {jobs} at once")
            if "bad" in graph.read_text(encoding="ascii"):
                print("toycc: giving up")
                raise CompileFailed(f"1 of {len(graphs)} graphs cannot be compiled by toycc")
        return len(graphs)


def manner_of(knobs: Knobs) -> str:
    return str(knobs.model_kwargs.get("device", "honest"))


class ToyDevice(Device):
    process_group: ClassVar[str | None] = "gloo"

    def __init__(self, manner: str) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch_device = torch.device("cpu")
        self._manner = manner
        self._forwards = 0
        if "TOY_NOTES" in os.environ:
            graph = Path(os.environ["TOY_CACHE"]) / "whole.graph"
            graph.write_text(manner, encoding="ascii")

    def fence(self) -> None:
        pass

    def feed(self, batches: Iterable[Any], knobs: Knobs) -> Iterator[Any]:
        for images, labels in batches:
            size = len(labels) // 2 if self._manner == "halves the batch" else len(labels)
            yield images[:size], labels[:size]

    def autocast(self, knobs: Knobs) -> contextlib.AbstractContextManager[Any]:
        self._forwards += 1
        return contextlib.nullcontext()

    def counters(self) -> Counters:
        from tiny import Tiny

        compiling = self._manner == "goes on compiling" and Tiny.witness_reads > 0
        return Counters(compiles=self._forwards if compiling else 0)

    def place(self, module: Any, knobs: Knobs) -> Any:
        return module if self._manner == "keeps fp32" else super().place(module, knobs)

    def step_optimizer(self, optimizer: Any) -> None:
        if self._manner != "never updates":
            optimizer.step()

    def prove(self, knobs: Knobs) -> dict[str, JsonValue]:
        if "TOY_NOTES" in os.environ:
            raise RuntimeError("a value of a device that computes nothing was looked at")
        return super().prove(knobs)

    def describe(self) -> dict[str, JsonValue]:
        return {"device": "toy"}
