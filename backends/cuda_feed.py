"""Batches on their way to a GPU: one is copied on a stream of its own while the step computes.

It draws from the host loader and issues copies. It knows nothing of steps, and never waits on the
host for the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

Batch = tuple[Any, ...]


def copied_ahead(
    batches: Iterable[Iterable[Any]], device: torch.device, cuda: Any = torch.cuda
) -> Iterator[Batch]:
    """Hand out batches on the device, each after the copy of the next was issued.

    From page-locked memory (data.pin_memory) a copy runs beside the kernels of the step before; any
    other memory the host copies into a page-locked buffer of the driver's first.

    Args:
        batches: Of tensors on the host.
        device: Where to.
        cuda: `torch.cuda`.

    Yields:
        The same batches, as tuples of tensors that the caller's current stream may use at once.
    """
    side = cuda.Stream(device=device)
    sent: tuple[Batch, Any] | None = None
    for batch in batches:
        with cuda.stream(side):
            copies = tuple(tensor.to(device, non_blocking=True) for tensor in batch)
        following = copies, side.record_event()
        if sent is not None:
            yield _received(*sent, cuda.current_stream(device))
        sent = following
    if sent is not None:
        yield _received(*sent, cuda.current_stream(device))


def _received(batch: Batch, arrived: Any, stream: Any) -> Batch:
    stream.wait_event(arrived)
    for tensor in batch:
        # It was allocated for the side stream: without this, its memory would be given to the next
        # copy as soon as the step drops it, and not when the step's kernels have read it.
        tensor.record_stream(stream)
    return batch
