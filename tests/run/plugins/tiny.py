"""A user's own model for the tests: a step of a few milliseconds that misbehaves on demand."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch

STEP_S = 0.002
SOON = 12
"""Forward passes before a step misbehaves: past the first step, inside the warm-up."""


class Late(torch.Tensor):
    """An output that, like one on an asynchronous device, is waited for where it is read."""

    def cpu(self) -> Any:
        time.sleep(Tiny.unfinished_s)
        Tiny.unfinished_s = 0.0
        Tiny.witness_reads += 1
        return self.as_subclass(torch.Tensor).cpu()


class Tiny(torch.nn.Module):
    unfinished_s: ClassVar[float] = 0.0
    witness_reads: ClassVar[int] = 0

    def __init__(self, fault: str, device: str) -> None:
        super().__init__()
        self.head = torch.nn.Linear(12, 10)
        self.late = device in {"fence does not wait", "goes on compiling"}
        self.late_s = STEP_S if device == "fence does not wait" else 0.0
        self.fault = fault
        self.calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        time.sleep(STEP_S)
        if self.calls > SOON and self.fault in IN_STEP:
            IN_STEP[self.fault]()
        pooled = torch.nn.functional.adaptive_avg_pool2d(images, 2)
        output: torch.Tensor = self.head(pooled.flatten(1))
        if self.fault == "nan":
            if self.calls == 1:
                print("a nan is coming")
            output = output * float("nan")
        if self.late:
            Tiny.unfinished_s += self.late_s
            output = output.as_subclass(Late)
        return output


def build(fault: str = "", device: str = "honest") -> Tiny:
    if fault in IN_BUILD:
        IN_BUILD[fault]()
    return Tiny(fault, device)


def _raise() -> None:
    raise ValueError(f"no weights in {Path.cwd()}/weights nor in {Path.home()}/weights")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _on_rank_1(fault: Callable[[], None]) -> Callable[[], None]:
    def misbehave() -> None:
        if os.environ["RANK"] == "1":
            Path(f"now{fault.__name__}").touch()  # for those who time what follows
            fault()

    return misbehave


def _fault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _want_more_than_allowed() -> None:
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = used * resource.getpagesize() + 64 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.ones(2**30)


def _sleep() -> None:
    time.sleep(3600)  # the line where it hangs


def _chatter() -> None:
    for _ in range(4000):
        print("x" * 999)


def _leave() -> None:
    os._exit(0)


IN_BUILD: dict[str, Callable[[], None]] = {
    "raises in build": _raise,
    "killed": _kill,
    "memory limit": _want_more_than_allowed,
    "hangs in build": _sleep,
    "aborts": os.abort,
    "chatters": _chatter,
    "leaves": _leave,
}
IN_STEP: dict[str, Callable[[], None]] = {
    "raises in step": _raise,
    "segfaults": _fault,
    "hangs in step": _sleep,
    "kills rank 1": _on_rank_1(_kill),
    "raises on rank 1": _on_rank_1(_raise),
    "no memory on rank 1": _on_rank_1(_want_more_than_allowed),
    "hangs on rank 1": _on_rank_1(_sleep),
}
