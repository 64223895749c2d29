"""Counting what `torch.compile` compiles, for every device that runs eagerly or through inductor.

Imported inside workers only: it uses torch.
"""

from __future__ import annotations

import time
from typing import Any

from torch._dynamo.callback import callback_handler


class DynamoCounter:
    """Counts compilations (forward and backward apart) and their wall time since creation."""

    def __init__(self) -> None:
        self.compiles = 0
        self.seconds = 0.0
        self._depth = 0
        self._since = 0.0
        callback_handler.register_start_callback(self._start)
        callback_handler.register_end_callback(self._end)

    def close(self) -> None:
        """Stop counting."""
        callback_handler.remove_start_callback(self._start)
        callback_handler.remove_end_callback(self._end)

    def _start(self, *_: Any) -> None:
        # Compilations may nest; the outermost one owns the time.
        self.compiles += 1
        if self._depth == 0:
            self._since = time.perf_counter()
        self._depth += 1

    def _end(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._since
