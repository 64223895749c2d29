"""A child that opens a TPU's chip as one of several ranks, up to where libtpu would be asked.

Everything before that is torch_xla's own: what the machine says of its slice comes from the
variables that Google's containers have. What needs the chip is noted and answered.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.runtime as xr

from bench.backends.base import Unsupported, World
from bench.backends.xla import XlaBackend
from bench.backends.xla_device import XlaDevice
from bench.scenarios.schema import Knobs


def main() -> None:
    """Open, and print the environment with which the chip would have been opened."""
    rank, size, nodes, world_found = map(int, sys.argv[1:])
    chip, opened = torch.device("cpu"), {}

    def devices(*_: Any) -> list[torch.device]:
        names = [name for name in os.environ if name.startswith(("TPU_", "CLOUD_TPU", "PJRT_"))]
        opened.update({name: os.environ[name] for name in names})
        return [chip]

    def replicated(device: torch.device, among: list[torch.device]) -> None:
        opened["replicated"] = device == chip and among == [chip]

    xm.get_xla_supported_devices = devices
    xm.set_replication = replicated
    torch_xla.device = lambda: chip
    xr.world_size = lambda: world_found
    XlaDevice.__init__ = lambda _self, _knobs: None  # type: ignore[assignment, method-assign]
    world = World(rank=rank, size=size, local_rank=rank % (size // nodes), nodes=nodes)
    try:
        device = XlaBackend().open(Knobs(processes=size, nodes=nodes), world)
        opened |= {"group": device.process_group, "ddp": dict(device.ddp_options)}
    except Unsupported as error:
        opened["refused"] = str(error)
    print(json.dumps(opened), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
