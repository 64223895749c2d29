"""A third party's backend for the tests: eager, cheap to start, and dishonest on demand.

Which lie its device tells stands in `model_kwargs.device`, so that one scenario can hold them all.
It registers by an entry point like any other adapter and imports torch in the worker only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from pydantic import JsonValue

from bench.backends.base import Backend, Counters, Device, Probe, Refusal, World
from bench.scenarios.schema import Knobs


class ToyBackend(Backend):
    name: ClassVar[str] = "toy"

    def probe(self) -> Probe:
        return Probe(backend="toy", available=True, device_model="Toy One", device_count=1)

    def environment(self, knobs: Knobs, probe: Probe) -> dict[str, str]:
        return {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

    def refusals(self, knobs: Knobs, probe: Probe) -> list[Refusal]:
        if not knobs.channels_last:
            return []
        return [Refusal(knob="channels_last", value=True, reason="a toy has one memory order")]

    def open(self, knobs: Knobs, world: World) -> Device:
        return ToyDevice(str(knobs.model_kwargs.get("device", "honest")))


class ToyDevice(Device):
    process_group: ClassVar[str | None] = "gloo"

    def __init__(self, manner: str) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch_device = torch.device("cpu")
        self._manner = manner
        self._forwards = 0

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

    def describe(self) -> dict[str, JsonValue]:
        return {"device": "toy"}
