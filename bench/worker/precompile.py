"""An untimed run of one rank: so many steps that every graph of a launch has been compiled once.

It issues the case's own step from the edge at which the headline pass begins, and cuts and waits
where that does, so that the same graphs come about; what it leaves is the compile cache. Where the
device only notes its graphs, no value is looked at.
"""

from __future__ import annotations

import time
from pathlib import Path

from bench.backends import registry
from bench.backends.base import World
from bench.measure.alignment import Alignment
from bench.measure.target import Peers
from bench.measure.warm_up import QUIET_PERIODS
from bench.results.record import Phase, Precompiled
from bench.worker import building
from bench.worker.events import Events
from bench.worker.job import Job
from bench.worker.peers import meet
from bench.workload.step import Step

_MOST_PERIODS = 12
"""What goes on compiling after so many is the launch's to judge, whose windows it voids."""


def run(job: Job, world: World, events: Events) -> Precompiled | None:
    """Run the steps; returns what was compiled on rank 0, null elsewhere.

    Args:
        job: With `purpose` precompile.
        world: This process's place.
        events: Where progress goes.
    """
    begin = time.perf_counter()
    knobs = job.case.knobs
    backend = registry.get(job.backend)
    events.enter(Phase.BUILD)
    device = backend.open(knobs, world)
    peers, _ = meet(world, device, Path(job.folder), knobs)
    alignment = building.alignment(backend, knobs)
    with device.checkpointing():
        step = building.build(job, world, device).step
        events.enter(Phase.FIRST_STEP)
        advance(step, alignment, peers)
        compiles = step.compiles()
    events.enter(Phase.REPORT)
    # A rank that leaves early would break the last exchange of another.
    peers.barrier()
    device.close()
    if world.rank != 0:
        return None
    return Precompiled(compiles=compiles, seconds=time.perf_counter() - begin)


def advance(step: Step, alignment: Alignment, peers: Peers) -> int:
    """Run the lead-in, then periods until two in a row compile nothing; returns their number.

    As many on every rank: one that still compiles keeps the others stepping.
    """
    step.advance(alignment.lead_in)
    step.fence()
    quiet = 0
    for periods in range(_MOST_PERIODS):
        if quiet == QUIET_PERIODS:
            return periods
        before = step.compiles()
        step.advance(alignment.period)
        step.fence()
        quiet = 0 if peers.any(step.compiles() > before) else quiet + 1
    return _MOST_PERIODS
