"""Several processes on a TPU, a chip each, with gradients exchanged by torch_xla's process group.

Imported inside workers only. Which chip is whose, and how the chips form one slice, is left to
torch_xla, which asks the machine: this module has it do so before the runtime starts, as its own
`xla://` does under torchrun. No TPU has run this; that the collectives are real is proven by every
launch before it is timed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch_xla.runtime as xr
from torch_xla._internal import pjrt

from bench.backends.base import Unsupported, World
from bench.backends.xla_device import XlaDevice
from bench.scenarios.schema import Knobs


class TpuDevice(XlaDevice):
    """The chip of one of several processes.

    Raises:
        Unsupported: the chips of all processes do not form one world of the size asked for.
    """

    process_group: ClassVar[str | None] = "xla"
    # As torch_xla's own guide to DistributedDataParallel has it.
    ddp_options: ClassVar[Mapping[str, Any]] = {"gradient_as_bucket_view": True}

    def __init__(self, knobs: Knobs, world: World) -> None:
        # `xla://` would also number the ranks anew, by chips; ours meet by their own numbers. Sums
        # do not depend on the order, and what is broadcast reaches all from the same one.
        pjrt.initialize_multiprocess(world.local_rank, world.local_size)
        if (found := xr.world_size()) != world.size:
            raise Unsupported(
                "processes",
                world.size,
                f"torch_xla finds {found} devices in all processes, and each must have one",
            )
        super().__init__(knobs)
