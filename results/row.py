"""The columns of the table: what a line says to programs.

This module knows no record and no arithmetic. Units stand in the name of a figure.
"""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from bench.scenarios.schema import Strict


class Row(Strict):
    """A line of the table; null is unknown or does not apply."""

    scenario: str
    case: str
    backend: str
    device: str | None = None
    flavour: str | None = None
    """Which of several software stacks ran it."""
    simulated: bool = False
    """The device was pretended by a test bed: no figure is that of such a device."""
    processes: int
    devices: int | None = None
    """Of all processes; null for a published claim, whose source need not tell."""
    global_batch: int | None = None
    """Samples of all devices in a step: batch_size x gradient_accumulation x devices. Null for a
    claim."""
    outcome: str | None = None
    """Null for a published claim: nothing ran."""
    reason: str | None = None
    """Why there is no number."""
    verdict: str | None = None
    audit: str | None = None
    """`pass`, or `fail: ` with the names of the checks; null: nothing was checked."""
    audit_remarks: str | None = None
    """Failed checks that leave the number right and tell its reader something, with figures."""
    audit_noise: str | None = None
    """Failed checks by which the machine disturbed the number, with figures."""
    samples_per_s: float | None = None
    samples_per_s_low: float | None = None
    samples_per_s_high: float | None = None
    speedup: float | None = None
    """Over the scenario's first row of the same session and backend."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    speedup_noisy: bool = False
    """One of the two rows behind the ratio is noisy."""
    speedup_reason: str | None = None
    """Why a row with a number has no speed-up."""
    scaling: float | None = None
    """Throughput / (devices x throughput of the row on one device) of the same session, backend
    and series; null for one device. On a host's processors devices are compute threads."""
    scaling_low: float | None = None
    scaling_high: float | None = None
    scaling_noisy: bool = False
    """One of the two rows behind it is noisy."""
    scaling_series: Literal["weak", "strong"] | None = None
    """`weak`: the row on one device has the same batch per device. `strong`: the same global batch.
    """
    scaling_against: str | None = None
    """The case on one device."""
    scaling_reason: str | None = None
    """Why a row with a number on several devices has no efficiency."""
    offloads: str | None = None
    """What is kept outside of the device's memory, and where; null: nothing is."""
    own_memory: bool | None = None
    """Whether the device has a memory of its own; else it is the host's, where offloading saves
    nothing. Null: an older record, or none that ran."""
    offload_ratio: float | None = None
    """Throughput / that of the same case without offloading, of the same session and backend."""
    offload_ratio_low: float | None = None
    offload_ratio_high: float | None = None
    offload_noisy: bool = False
    """One of the two rows behind it is noisy."""
    offload_saved_bytes: int | None = None
    """Peak memory of the case without - that of this one; null: not known, or the device's memory
    is the host's, where nothing can be saved."""
    offload_against: str | None = None
    """The case without."""
    offload_reason: str | None = None
    """Why a row with a number that offloads has no ratio."""
    step_ms: float | None = None
    launches: int | None = None
    peak_memory_bytes: int | None = None
    host_peak_rss_bytes: int | None = None
    """Of a training process on the host."""
    compile_s: float | None = None
    """Of the first launch that found no compiled code: the same figure as `compile_cold_s`."""
    compile_cold_s: float | None = None
    compile_warm_s: float | None = None
    """Mean of the later launches that found the run's compile cache filled."""
    loader_wait_share: float | None = None
    communication_share: float | None = None
    """Time that the exchange between ranks adds to a step / time of the step."""
    straggler_share: float | None = None
    """How much longer than the mean the slowest rank takes for its own work, of the launch where
    that is the most."""
    straggler_source: str | None = None
    """From what it is known: windows, in which ranks wait for each other, show little of it."""
    learns: bool | None = None
    """Whether the training still trains; null: not looked at, or it cannot be told."""
    loss_gap: float | None = None
    """Loss after some steps on one batch - that of fp32 from the same seed. Unit: nats."""
    learned_share: float | None = None
    """Fall of that loss / fall of fp32's."""
    health_reason: str | None = None
    """What is wrong with the training, or why it is unknown."""
    flops_per_sample: float | None = None
    """Of the model's products, forward and, in training, backward."""
    mfu: float | None = None
    """The model's FLOP/s on one device / the device's peak in the type of its products."""
    mfu_source: str | None = None
    """The peak, and where it was published."""
    energy_j_per_sample: float | None = None
    energy_source: str | None = None
    """The counter, and what it covers."""
    cost_per_million_samples: float | None = None
    """By the price file that was given, in `currency`."""
    currency: str | None = None
    cost_source: str | None = None
    """The machine, its price, the day and where the price was read."""
    naive_samples_per_s: float | None = None
    """What a clock read before and after every step, without waiting for the device, would say."""
    naive_ratio: float | None = None
    """That / the throughput of the same steps until the device had finished them."""
    settings: str = ""
    """Knobs that differ from their defaults; for a claim, the source's settings."""
    remark: str | None = None
    verdict_reason: str | None = None
    remedy: str | None = None
    precision_reached: bool | None = None
    source: str | None = None
    """Where a claim was published."""
    session: str | None = None
    position: int | None = None
    created: str | None = None
    record: str | None = None
    """Path of the record's file, as it can be printed."""
    knobs: dict[str, JsonValue] = {}
    """Every knob by dotted name; empty for a claim."""
