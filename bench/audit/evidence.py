"""What the audit sees of a launch; torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from bench.audit.held_back import held_back
from bench.results.record import Clocks, Diagnostics, Inspection, Noise, Peak
from bench.scenarios.schema import Knobs


@dataclass(frozen=True)
class Evidence:
    """One rank's figures of a launch, taken before any diagnostic pass disturbed them."""

    knobs: Knobs
    window_s: tuple[float, ...]
    """Clean windows, fence to fence. Unit: seconds."""
    residual_s: tuple[float, ...]
    """After each window: extra time of the first read of an updated parameter. Unit: seconds."""
    voided_windows: int
    windows_exhausted: bool
    """Compilations never stopped, and the launch kept fewer windows than planned."""
    steady: bool
    steady_reason: str
    micro_batches: int
    """Issued while windows were measured, voided ones included."""
    samples: int
    batch_sizes: frozenset[int]
    updates: int | None
    """Optimizer updates over the same time, by the optimizer's own hook, without those that a loss
    scaler made it skip; null: inference."""
    executions: int | None
    """Graph executions inside the clean windows; null: the device does not execute graphs."""
    expected_executions: int | None
    """What the settings imply for the same windows; null as above."""
    fallbacks: Mapping[str, int] | None
    """Operators that ran on the host, by name; null: the device does not count them."""
    moved_share: float | None
    """Share of trainable tensors that differ from their first values; null: inference."""
    loss_first: float | None
    loss_last: float | None
    collectives: str | None
    """Evidence of the all-reduce probe; null: one process."""
    asked: Mapping[str, JsonValue] = field(default_factory=dict)
    actual: Mapping[str, JsonValue] = field(default_factory=dict)
    skipped_updates: int | None = None
    """Asked for over the same time and skipped by the loss scaler; null: nothing skips any."""
    graph_breaks: Mapping[str, int] | None = None
    """Where torch.compile gave back to Python, by reason; null: it is not counted."""
    recompiles: int | None = None
    """Of code that was compiled before; null: as above."""
    graphs_skipped: int | None = None
    """CUDA graphs that the compiler did not make; null: as above."""
    untrained: tuple[str, ...] = ()
    """Parameters that the model was built with as trainable, and that are frozen now or that the
    optimizer does not hold."""
    machines: int | None = 1
    """Over which the ranks are spread; null: they cannot tell."""
    weights_agree: bool | None = None
    """Whether all ranks have the same weights after the windows; null: inference, or one rank."""
    shards_updates: bool = False
    """Each part of the weights is updated by one rank, and the others are given it."""
    noise: Noise = field(default_factory=Noise)
    memory_bytes: tuple[int, ...] = ()
    """In use before the first clean window and after each; empty: cannot be read."""
    clocks: Clocks | None = None
    clock_mhz: tuple[float, ...] = ()
    """After each clean window; empty: cannot be read."""
    calculation_us: tuple[float, ...] = ()
    """What a fixed calculation took on the device after each; empty: none was made."""
    samples_per_s: float | None = None
    """Of one device of this rank, over all its windows."""
    flops_per_sample: float | None = None
    peaks: tuple[Peak, ...] = ()
    """Of one device, in every type in which the model's products ran; empty: one is not known."""
    inspection: Inspection | None = None
    """From the untimed steps of the first launch; null: this launch was not looked into."""
    diagnostics: Diagnostics | None = None
    """Null: the diagnostic pass did not run in this launch."""

    in_turns: bool = False
    """Another launch computed between the windows, to be compared with this one."""

    @property
    def judged_us(self) -> tuple[float, ...]:
        """What the fixed calculation took, as far as it tells of somebody else."""
        # What slows two launches that take turns slows both.
        return () if self.in_turns else self.calculation_us

    @property
    def held_back(self) -> list[str]:
        """Why the device counts as slowed from outside; empty: it does not."""
        return held_back(self.clocks, self.clock_mhz, self.judged_us)

    @property
    def quiet(self) -> bool:
        """No noise monitor found the machine disturbed, and nothing slowed the device down."""
        return not self.noise.reasons and not self.held_back
