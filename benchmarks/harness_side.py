"""One launch of the harness that waits for its turn between windows: the other side of overhead.py.

It runs the harness's own worker code, with one difference: before every window it says so on its
standard output and waits for a line on its standard input. No window is open meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from bench.backends.base import World
from bench.worker import session
from bench.worker.events import Events
from bench.worker.job import Job


class TurnEvents(Events):
    """Events that nobody listens to, and that wait for a turn."""

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
            sys.stdin.readline()
        elif done is not None and total is not None and done < total:
            _say({"done": done})
            sys.stdin.readline()


def _say(message: dict[str, object]) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    """Run the job in the file that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, required=True)
    args = parser.parse_args()
    job = Job.model_validate_json(args.job.read_bytes())
    launch = session.run(job, World(), TurnEvents(rank=0), 0.0)
    if launch is None:
        raise RuntimeError("a world of one has a rank 0, and it returns the launch")
    _say({"launch": launch.model_dump(mode="json", by_alias=True)})
    # Loader and runtime threads of some backends never end by themselves.
    os._exit(0)


if __name__ == "__main__":
    main()
