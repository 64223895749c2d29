"""One launch of the harness that waits for its turn between windows: the other side of overhead.py.

It runs the harness's own worker code, with one difference: before every window it says so on its
standard output and waits for a line on its standard input. No window is open meanwhile. A line that
holds a number of steps is a turn of the hand-written loop, which then runs in this process too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import handwritten_loop

from bench.backends.base import World
from bench.worker import session
from bench.worker.events import Events
from bench.worker.job import Job


class TurnEvents(Events):
    """Events that nobody listens to, and that wait for a turn.

    Args:
        guest: The hand-written loop: runs so many steps and returns their seconds. Null: it runs
            in a process of its own.
    """

    def __init__(self, guest: Callable[[int], float] | None) -> None:
        super().__init__(rank=0)
        self._guest = guest

    def tell(
        self,
        done: int | None = None,
        total: int | None = None,
        samples_per_s: float | None = None,
        expected_s: float | None = None,
    ) -> None:
        """Wait for a turn before every window."""
        if expected_s is not None:
            _say({"window_s": expected_s})
            self._wait()
        elif done is not None and total is not None and done < total:
            _say({"done": done})
            self._wait()

    def _wait(self) -> None:
        while (line := sys.stdin.readline().strip()) and self._guest is not None:
            _say({"seconds": self._guest(int(line))})


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    """Run the job in the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--guest", type=json.loads, help="command line of the loop beside it")
    args = parser.parse_args()
    guest = (
        None
        if args.guest is None
        else handwritten_loop.timed(handwritten_loop.arguments(args.guest))
    )
    job = Job.model_validate_json(args.job.read_bytes())
    launch = session.run(job, World(), TurnEvents(guest), 0.0)
    if launch is None:
        raise RuntimeError("a world of one has a rank 0, and it returns the launch")
    _say({"launch": launch.model_dump(mode="json", by_alias=True)})
    # Loader and runtime threads of some backends never end by themselves.
    os._exit(0)


if __name__ == "__main__":
    main()
