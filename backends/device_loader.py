"""The knobs of torch_xla's device loader, put to an adapter whose device has none. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from bench.backends.base import Refusal
from bench.scenarios.schema import Knobs


def absent(knobs: Knobs, *, no_graph: str, no_queue: str) -> Iterator[Refusal]:
    """Refuse graphs of several batches, and queues of batches on their way to the device.

    Args:
        knobs: Of the case.
        no_graph: Why no graph here could hold several batches.
        no_queue: What brings batches to the device instead.
    """
    loader = knobs.loader
    if loader.batches_per_execution > 1:
        yield Refusal(
            knob="loader.batches_per_execution",
            value=loader.batches_per_execution,
            reason=no_graph,
        )
    for name in ("prefetch", "device_prefetch", "transfer_threads"):
        if (value := getattr(loader, name)) is not None:
            yield Refusal(knob=f"loader.{name}", value=value, reason=no_queue)
