"""Counting what `torch.compile` compiles, for every device that runs eagerly or through inductor.

Imported inside workers only: it uses torch.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from torch._dynamo.callback import callback_handler

from bench.backends.base import Counters


class DynamoCounter:
    """Counts compilations (forward and backward apart) and their wall time since creation.

    And what torch.compile could not do with the program: give a whole graph to the compiler, or
    make the CUDA graphs that its mode asks for. Neither is an error to torch.
    """

    def __init__(self) -> None:
        self.compiles = 0
        self.seconds = 0.0
        self._depth = 0
        self._since = 0.0
        self._breaks_before = _graph_breaks()
        self._recompiles_before = _recompiles()
        self._skips_before = _graphs_skipped()
        callback_handler.register_start_callback(self._start)
        callback_handler.register_end_callback(self._end)

    def counters(self) -> Counters:
        """Return all counts since creation."""
        return Counters(
            compiles=self.compiles,
            compile_s=self.seconds,
            graph_breaks=dict(_graph_breaks() - self._breaks_before),
            recompiles=_recompiles() - self._recompiles_before,
            graphs_skipped=_graphs_skipped() - self._skips_before,
        )

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


def _graph_breaks() -> Counter[str]:
    found: Counter[str] = Counter()
    for reason, count in torch._dynamo.utils.counters["graph_break"].items():
        # The lines that follow the first quote the program, with its paths.
        found[str(reason).strip().partition("\n")[0]] += count
    return found


def _recompiles() -> int:
    metrics = torch._dynamo.utils.get_compilation_metrics()
    return sum(one.recompile_reason is not None for one in metrics)


def _graphs_skipped() -> int:
    return int(torch._dynamo.utils.counters["inductor"]["cudagraph_skips"])
