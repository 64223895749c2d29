"""How well many devices are used: their throughput over as many times that of one device.

Two series start at one device. Weak: the batch of a device stays. Strong: the batch of all devices
stays, so that each has less of it. A row belongs to the one whose first row stands beside it. This
module knows records, and not how a figure is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from bench.results.record import Outcome, Record
from bench.results.speedup import Siblings, Speedup, ratio_over, siblings_but_for
from bench.scenarios.schema import ENGINE_GROUPS, Knobs

Series = Literal["weak", "strong"]
_MAY_DIFFER = {
    *("processes", "nodes", "threads", "engine", "batch_size", "gradient_accumulation"),
}


@dataclass(frozen=True)
class Scaling:
    """The efficiency of a row of several devices, or why there is none."""

    ratio: Speedup = field(default_factory=Speedup)
    series: Series | None = None
    against: str | None = None
    """The case of one device that it is held against."""


def global_batch(knobs: Knobs) -> int:
    """Return the samples of all devices in a step."""
    return knobs.batch_size * knobs.gradient_accumulation * knobs.devices


def scaling_of(record: Record, siblings: Siblings) -> Scaling:
    """Return throughput / (devices x throughput of one device) of the same session and series.

    From launches paired within rounds, as a speed-up. Null, without a reason, for one device and
    where there is no number. The devices of a row on a host's processors are its compute threads,
    since its ranks may share out those that one process had.
    """
    knobs = record.requested.knobs
    if record.outcome is not Outcome.OK or knobs.devices == 1:
        return Scaling()
    found = _first_of_series(record, siblings)
    if found is None:
        reason = (
            "the session has no row of these settings on one device, neither with the same batch "
            f"per device ({knobs.batch_size}) nor with the same global batch "
            f"({global_batch(knobs)})"
        )
        return Scaling(Speedup(reason=reason))
    one, series = found
    name = f"the row of one device ({one.requested.case})"
    ratio = ratio_over(record, one, name)
    if ratio.value is None:
        return Scaling(ratio, series, one.requested.case)
    times = _times_the_devices(record, one)
    if isinstance(times, str):
        return Scaling(Speedup(reason=times), series, one.requested.case)
    low, high = (None if v is None else v / times for v in (ratio.low, ratio.high))
    efficiency = replace(ratio, value=ratio.value / times, low=low, high=high)
    return Scaling(efficiency, series, one.requested.case)


def _first_of_series(record: Record, siblings: Siblings) -> tuple[Record, Series] | None:
    """Return the row on one device that a row scales from; the same engine before a plain one."""
    knobs = record.requested.knobs
    found: list[tuple[bool, bool, Record]] = []
    for one in siblings_but_for(record, siblings, _may_differ):
        alone = one.requested.knobs
        same_engine = alone.engine == knobs.engine and _groups(alone) == _groups(knobs)
        if alone.devices != 1 or not (same_engine or alone.engine == "plain"):
            continue
        share = (knobs.batch_size, knobs.gradient_accumulation)
        weak = share == (alone.batch_size, alone.gradient_accumulation)
        if weak or global_batch(alone) == global_batch(knobs):
            found.append((not weak, not same_engine, one))
    if not found:
        return None
    strong, _, one = min(found, key=lambda each: each[:2])
    return one, "strong" if strong else "weak"


def _may_differ(name: str) -> bool:
    return name in _MAY_DIFFER or name.partition(".")[0] in ENGINE_GROUPS


def _groups(knobs: Knobs) -> list[dict[str, object]]:
    """Return the settings of the engines, but for a number of devices among them."""
    return [getattr(knobs, name).model_dump(exclude={"devices"}) for name in ENGINE_GROUPS]


def _times_the_devices(record: Record, one: Record) -> float | str:
    """Return how many times the devices of the one row the other has; text: why it is unknown."""
    # What ran is the same in all launches of a record.
    mine, theirs = record.launches[0].actual, one.launches[0].actual
    own_memory = mine.get("own_memory")
    if own_memory is None:
        return "the record does not tell whether its ranks share the host's processors"
    if own_memory:
        return record.requested.knobs.devices
    threads, alone = mine.get("threads"), theirs.get("threads")
    if not isinstance(threads, int) or not isinstance(alone, int):
        return "it is not known how many threads its ranks computed with"
    return record.processes * threads / alone
