"""One launch of the harness on XLA with a lie planted: its fence cuts the graph, and does not wait.

That is the clock of most scripts: the time in which work is handed to the device. The launch that
is printed holds what such a clock reads, and what the audit says about it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch_xla

from bench.backends.base import World
from bench.backends.xla_device import XlaDevice
from bench.worker import session
from bench.worker.events import Events
from bench.worker.job import Job


def cut_only(device: XlaDevice) -> None:
    """Hand the graph over, and return before it has run."""
    torch_xla.sync()
    device._kept.clear()


def main() -> None:
    """Run the job in the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    args = parser.parse_args()
    XlaDevice.fence = cut_only  # type: ignore[method-assign]
    job = Job.model_validate_json(args.job.read_bytes())
    launch = session.run(job, World(), Events(rank=0), 0.0)
    if launch is None:
        raise RuntimeError("a world of one has a rank 0, and it returns the launch")
    print(json.dumps(launch.model_dump(mode="json", by_alias=True)), flush=True)
    # Loader and runtime threads of some backends never end by themselves.
    os._exit(0)


if __name__ == "__main__":
    main()
