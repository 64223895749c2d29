"""Where the ranks of a hung launch stand: which of them waits for the others, and which does not.

All ranks fall silent together when one does not come to a collective. Their stacks, which
faulthandler has written into their logs, tell who is to blame. On an accelerator a collective
returns at once, and a rank waits where it next needs what the device computes. Text work only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench.run.ending import log_end, log_tail, tail_of

_BYTES = 1 << 18
_LINES = 30
_HEADING = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):$")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line \d+ in (?P<name>\S+)$')
_COLLECTIVES = (
    "/torch/distributed/",
    "/torch/nn/parallel/distributed.py",
    "/deepspeed/comm/",
)
_BACKWARD = ("/torch/autograd/graph.py", "_engine_run_backward")
"""The exchange of gradients lies inside the backward pass: a rank waits for it in here."""
_FENCE = ("/bench/workload/step.py", "fence")
"""Every adapter's fence is called from here."""
_READERS = ("/bench/measure/", "/bench/worker/", "/torch/amp/grad_scaler.py")
"""They compute nothing that takes long: one that stands here reads a value off the device."""


def waiting(folder: Path, ranks: Iterable[int]) -> dict[int, bool]:
    """Return whether each rank waits for the others; of one that has written no stack, nothing.

    Args:
        folder: Of the launch, with their logs.
        ranks: Those to look at.
    """
    found = {}
    for rank in ranks:
        frames = _frames(_main_thread(log_end(folder, rank, _BYTES) or ""))
        if frames:
            found[rank] = _waits(frames)
    return found


def astray(waits: Mapping[int, bool]) -> int | None:
    """Return the one rank that does not wait while all others do; null: it cannot be told."""
    others = [rank for rank, waiting_there in waits.items() if not waiting_there]
    return others[0] if len(others) == 1 < len(waits) else None


def tail(folder: Path, rank: int) -> str | None:
    """Return where the main thread of a rank stands, or else what it printed last."""
    lines = _main_thread(log_end(folder, rank, _BYTES) or "")
    return tail_of("\n".join(lines[:_LINES])) if lines else log_tail(folder, rank)


def _main_thread(log: str) -> list[str]:
    """Return heading and frames of the main thread, innermost first, of the last stacks in a log.

    Threads stand there in the order of their age, the oldest last.
    """
    found: list[str] = []
    for line in log.splitlines():
        if _HEADING.match(line):
            found = [line]
        elif found and _FRAME.match(line):
            found.append(line)
    return found


def _frames(lines: Iterable[str]) -> list[tuple[str, str]]:
    matches = [_FRAME.match(line) for line in lines]
    return [(match["file"], match["name"]) for match in matches if match is not None]


def _waits(frames: Sequence[tuple[str, str]]) -> bool:
    file, name = frames[0]
    backward = file.endswith(_BACKWARD[0]) and name == _BACKWARD[1]
    fence = any(file.endswith(_FENCE[0]) and name == _FENCE[1] for file, name in frames)
    return backward or fence or any(place in file for place in (*_COLLECTIVES, *_READERS))
