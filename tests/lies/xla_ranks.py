"""One of two ranks on PJRT CPU, whose processes do not communicate: all that refuses it is lifted.

The collectives of torch_xla's process group then return their input, without an error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch_xla.distributed.xla_backend  # noqa: F401 - registers the process group

from bench.backends.base import Device, World
from bench.backends.xla import XlaBackend
from bench.backends.xla_device import XlaDevice
from bench.scenarios.schema import Knobs
from bench.worker.events import Events
from bench.worker.job import Job, world_from_environment
from bench.worker.main import RankFailed, run_rank


class Joined(XlaDevice):
    """A device that claims to have a process group."""

    process_group = "xla"


def opened(_backend: XlaBackend, knobs: Knobs, _world: World) -> Device:
    return Joined(knobs)


def main() -> None:
    """Run the rank, and leave past the exit handlers of a group that another has left."""
    job = Job.model_validate_json(Path(sys.argv[1]).read_bytes())
    world = world_from_environment()
    XlaBackend.open = opened  # type: ignore[assignment, method-assign]
    code = 0
    try:
        run_rank(job, world, Events(world.rank))
    except RankFailed:
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
