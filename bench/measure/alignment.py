"""Where a window may begin and end, counted in micro-batches.

This module is arithmetic on two rhythms, the device's graph executions and the optimizer's steps.
It must not know what a micro-batch holds or which device cuts graphs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Alignment:
    """The rhythm of one case: how micro-batches group into graph executions and into steps.

    A device that cuts graphs lets `first_cut` micro-batches into the first graph and
    `batches_per_execution` into every later one. A window edge anywhere else would cut a graph
    short, which the device has to compile anew. Edges need not lie on optimizer steps: any stretch
    of whole periods holds the same number of them.

    Attributes:
        batches_per_execution: Micro-batches in one graph; 1 on an eager device.
        gradient_accumulation: Micro-batches per optimizer step.
        first_cut: Micro-batches in the first graph; 0 where nothing is cut.

    Raises:
        ValueError: a count is below its minimum, or `first_cut` is not less than
            `batches_per_execution`.
    """

    batches_per_execution: int = 1
    gradient_accumulation: int = 1
    first_cut: int = 0

    def __post_init__(self) -> None:
        if self.batches_per_execution < 1 or self.gradient_accumulation < 1:
            raise ValueError(
                "batches_per_execution and gradient_accumulation count micro-batches and must be "
                f"at least 1, not {self.batches_per_execution} and {self.gradient_accumulation}"
            )
        if not 0 <= self.first_cut < self.batches_per_execution:
            raise ValueError(
                f"first_cut={self.first_cut} must lie in 0 to {self.batches_per_execution - 1}: "
                "no graph holds more than batches_per_execution micro-batches"
            )

    @property
    def period(self) -> int:
        """The smallest stretch that holds whole graphs and whole steps. Unit: micro-batches."""
        return math.lcm(self.batches_per_execution, self.gradient_accumulation)

    @property
    def steps_per_period(self) -> int:
        """Optimizer steps in a period."""
        return self.period // self.gradient_accumulation

    @property
    def executions_per_period(self) -> int:
        """Graph executions in a period, on a device that has any."""
        return self.period // self.batches_per_execution

    @property
    def lead_in(self) -> int:
        """Micro-batches of the first-step phase: at least one step, ending on a window edge."""
        shortfall = self.gradient_accumulation - self.first_cut
        graphs = max(0, -(-shortfall // self.batches_per_execution))
        return self.first_cut + graphs * self.batches_per_execution
