"""One launch of the harness that waits for its turn before every window: one side of overhead.py.

It runs the harness's own worker code, which has turns of its own: a side that has rested first runs
a step untimed, since its caches are the other's. The launch says on its standard output that it
waits, and a line on its standard input gives it its turn. A line that holds a number of steps is a
turn of the hand-written loop, which then runs in this process too.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import handwritten_loop

from bench.backends import registry
from bench.worker import session
from bench.worker.events import Events
from bench.worker.job import TURN_VARIABLE, Job, world_from_environment


class TurnEvents(Events):
    """Events of which only the wait for a turn is heard, on standard output.

    Args:
        rank: Of this process.
        make_guest: Builds the hand-written loop, which runs so many steps and returns their
            seconds; called at its first turn, since it may need the group that the launch forms.
            Null: it runs in a process of its own.
    """

    def __init__(self, rank: int, make_guest: Callable[[], Callable[[int], float]] | None) -> None:
        super().__init__(rank)
        self._make_guest = make_guest
        self._guest: Callable[[int], float] | None = None
        self._window_s: float | None = None
        hears, self._says = os.pipe()
        os.environ[TURN_VARIABLE] = str(hears)

    def tell(
        self,
        done: int | None = None,
        total: int | None = None,
        samples_per_s: float | None = None,
        expected_s: float | None = None,
        rested_cpu_s: float | None = None,
    ) -> None:
        """Note how long a window is expected to be. Unit: seconds."""
        self._window_s = self._window_s if expected_s is None else expected_s

    def wait(self, before: Literal["warm_up", "window", "end"]) -> None:
        """Return when the next window may run; the rest of a launch is nobody's turn."""
        if before == "window":
            _say({"window_s": self._window_s})
            while (line := sys.stdin.readline().strip()) and self._make_guest is not None:
                if self._guest is None:
                    self._guest = self._make_guest()
                _say({"seconds": self._guest(int(line))})
        os.write(self._says, b".")


def _guest(words: Sequence[str]) -> Callable[[int], float]:
    return handwritten_loop.timed(handwritten_loop.arguments(words))


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    """Run the job in the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument(
        "--least-periods", type=int, help="of a window, instead of the backend's own choice"
    )
    parser.add_argument("--guest", type=json.loads, help="command line of the loop beside it")
    args = parser.parse_args()
    job = Job.model_validate_json(args.job.read_bytes())
    if args.least_periods is not None:
        backend = type(registry.get(job.backend))
        setattr(backend, "least_periods", lambda *_: args.least_periods)  # noqa: B010 - a method
    guest = None if args.guest is None else functools.partial(_guest, args.guest)
    world = world_from_environment()
    launch = session.run(job, world, TurnEvents(world.rank, guest), 0.0)
    # Rank 0 returns the launch, and the others nothing.
    _say({"launch": launch and launch.model_dump(mode="json", by_alias=True)})
    # Loader and runtime threads of some backends never end by themselves.
    os._exit(0)


if __name__ == "__main__":
    main()
