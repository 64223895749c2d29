"""Being asked to stop by a signal: once politely, twice at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bench.run.exits import EXIT_INTERRUPTED

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Collect the signals that ask us to stop; a second one ends the program at once."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if received:
            # Whoever asks twice does not want to wait for records; the children die with us.
            os._exit(EXIT_INTERRUPTED)
        received.append(number)
        # Not print: the signal may have come in the middle of a print.
        os.write(2, b"\nstopping: recording what was measured (again to stop at once)\n")

    # What whoever started us has us ignore (nohup) stays ignored.
    heeded = [s for s in _STOPPING if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, note) for s in heeded}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
