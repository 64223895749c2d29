"""How batches reach an XLA device, and where the graph is cut on the way.

Imported inside workers only. It knows the rule of the cut (before batch N, 2N, ... is handed out)
and nothing of models, steps or clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch_xla
from torch_xla.distributed.parallel_loader import ParallelLoader

from bench.scenarios.schema import LoaderKnobs


class HostFeed:
    """Sends host batches through torch_xla's own device loader, which cuts the graph.

    The class used is the one inside `MpDeviceLoader`, which has no way to stop its threads.

    Args:
        batches: Host batches: tensors in tuples, lists or dicts. Tuples arrive as lists.
        device: Where they go.
        loader: Queue sizes, threads, and the batches per graph.
        after_cut: Called after the graph was cut, before the batch is handed out.
        sharding: Divides every tensor over several devices, as torch_xla's own `ShardingSpec`
            does; null: they go to one.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        device: torch.device,
        loader: LoaderKnobs,
        after_cut: Callable[[], None],
        sharding: Any = None,
    ) -> None:
        asked = {
            "loader_prefetch_size": loader.prefetch,
            "device_prefetch_size": loader.device_prefetch,
            "host_to_device_transfer_threads": loader.transfer_threads,
        }
        self._source = _Source(batches)
        self._loader = ParallelLoader(
            self._source,
            [device],
            batches_per_execution=loader.batches_per_execution,
            input_sharding=sharding,
            **{name: value for name, value in asked.items() if value is not None},
        )
        self._batches = self._loader.per_device_loader(device)
        self._per_graph = loader.batches_per_execution
        self._after_cut = after_cut
        self._asked = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next batch on the device.

        Raises:
            Exception: whatever the host loader raised; torch_xla alone would end the data instead.
        """
        self._asked += 1
        try:
            batch = next(self._batches)
        except StopIteration:
            if self._source.error is not None:
                raise self._source.error from None
            raise
        if self._asked % self._per_graph == 0:
            self._after_cut()
        return batch

    def close(self) -> None:
        """Stop the threads; waits for the batch that is being loaded."""
        self._loader.close()


class ResidentFeed:
    """Hands out batches that lie on the device, cutting where the device loader would."""

    def __init__(
        self, batches: Iterable[Any], loader: LoaderKnobs, after_cut: Callable[[], None]
    ) -> None:
        self._batches = iter(batches)
        self._per_graph = loader.batches_per_execution
        self._after_cut = after_cut
        self._asked = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next batch, as it is."""
        self._asked += 1
        if self._asked % self._per_graph == 0:
            torch_xla.sync()
            self._after_cut()
        return next(self._batches)

    def close(self) -> None:
        """Nothing runs beside the step."""


class _Source:
    """Iterates over host batches in the loader's thread, and remembers what went wrong there."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            for batch in self._batches:
                yield _distinct(batch)
        except Exception as error:
            # The loader thread has nobody to raise to: `__next__` raises it where it is seen.
            self.error = error


def _distinct(batch: Any) -> Any:
    """Return the batch with new tensor objects over the same memory.

    Of a tensor object that occurs twice in one transfer, torch_xla sends a single copy: less is
    transferred than was asked for, and graphs over several batches come out different every time.
    """
    if isinstance(batch, torch.Tensor):
        return batch.detach()
    if isinstance(batch, dict):
        return {key: _distinct(value) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [_distinct(value) for value in batch]
    return batch
