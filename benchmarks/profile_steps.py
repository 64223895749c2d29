"""Where the time of a case's steps goes, by torch's profiler: kernels by their share, and a trace.

Run by `gpu_check.py` in the environment of the case's launches. The profiler slows the host, so
what it says of the device is to be trusted, and what it says of the host is an upper bound.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from bench.backends import registry
from bench.backends.base import World
from bench.worker import building
from bench.worker.job import Job

WARM_UP, PROFILED, SHOWN = 10, 5, 12
"""Steps before, steps under the profiler, and kernels that are told."""


def main() -> None:
    """Profile the job that the command line names; prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--trace", type=Path, required=True)
    args = parser.parse_args()
    job = Job.model_validate_json(args.job.read_bytes())
    knobs = job.case.knobs
    device = registry.get(job.backend).open(knobs, World())
    with device.checkpointing():
        step = building.build(job, World(), device).step
        step.advance(WARM_UP * knobs.gradient_accumulation)
        step.fence()
        with torch.profiler.profile() as profiler:
            begin = time.perf_counter()
            step.advance(PROFILED * knobs.gradient_accumulation)
            step.fence()
            seconds = time.perf_counter() - begin
    device.close()
    profiler.export_chrome_trace(str(args.trace))
    times = _times(profiler, device.torch_device.type)
    busy = sum(times.values())
    longest = sorted(times.items(), key=lambda item: -item[1])[:SHOWN]
    found = {
        "steps": PROFILED,
        "seconds": seconds,
        "busy_share": busy / seconds,
        "kernels": [{"name": name, "share": spent / busy} for name, spent in longest],
    }
    print(json.dumps(found))


def _times(profiler: Any, kind: str) -> dict[str, float]:
    """Return the time of every kernel, or of every operator where the host computes. In seconds."""
    where = getattr(torch.autograd.DeviceType, kind.upper())
    # Annotations of a compiler span the kernels that they are about, which are there too.
    events = [
        event
        for event in profiler.key_averages()
        if event.device_type == where and not event.is_user_annotation
    ]
    own = "self_cpu_time_total" if kind == "cpu" else "self_device_time_total"
    return {event.key: 1e-6 * getattr(event, own) for event in events}


if __name__ == "__main__":
    main()
