"""What has to be said below a table: what its marks mean, and what to do about its rows.

This module knows rows, and nothing of how a table looks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from bench.results.row import Row
from bench.results.wording import is_wide


def legend(rows: Sequence[Row], shown: Collection[str]) -> Iterator[str]:
    """Yield what each kind of mark and figure means, of those that the rows hold.

    Args:
        rows: Of the table.
        shown: Heads of its columns.
    """
    numbers = [row for row in rows if row.samples_per_s is not None]
    if any(row.samples_per_s_low is not None for row in numbers):
        yield "[low, high]: 95 % interval over launches"
    if any(row.samples_per_s_low is None and row.session for row in numbers):
        yield "a number without an interval comes from one launch"
    if "speed-up" in shown and any(row.speedup is not None for row in numbers):
        yield (
            "speed-up: over the first row of the same session and backend, from launches paired "
            "within rounds"
        )
    yield from _of_several(rows, shown)
    noisy = (
        ("speed-up", any(row.speedup_noisy for row in numbers)),
        ("scaling", any(row.scaling_noisy for row in numbers)),
        ("offload", any(row.offload_noisy for row in numbers)),
    )
    if any(marked and head in shown for head, marked in noisy):
        yield "~: a ratio of which one side is noisy"
    if "loss gap" in shown:
        yield "loss gap: loss after some steps on one batch, less that of fp32; nats"
    if "compile s" in shown and any(row.compile_warm_s is not None for row in numbers):
        yield "compile s: cold / warm cache"
    if "MFU" in shown:
        yield "MFU: the model's FLOP/s over the device's peak in the type of its products"
    if "cost/M" in shown:
        yield "cost/M: of a million samples, by the price file"
    if any(row.verdict == "claimed" for row in rows):
        yield "claimed: published by others, not measured here, and never compared by ratio"


def _of_several(rows: Sequence[Row], shown: Collection[str]) -> Iterator[str]:
    """Yield what the figures of several devices mean, and of what is kept elsewhere."""
    if "ranks" in shown and any(row.devices not in (None, row.processes) for row in rows):
        yield "ranks: processes, and of how many devices each"
    if "scaling" in shown:
        yield (
            "scaling: throughput / (devices x that of one device), paired as a speed-up; a host's "
            "devices are its threads"
        )
        yield "weak: against the same batch per device; strong: against the same global batch"
    if "offload" in shown:
        yield (
            "offload: speed over the same case without offloading, paired as a speed-up, and how "
            "much less memory the device needs"
        )


def warnings(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what somebody should do about the rows, and how many are concerned."""
    noisy = [row for row in rows if row.verdict == "noisy"]
    if noisy:
        yield (
            f"{_count(noisy)} noisy: something else used this machine. Stop it and run again, or "
            "raise --launches; `bench doctor` shows what would disturb a measurement."
        )
    suspect = [row for row in rows if row.verdict == "suspect"]
    if suspect:
        yield (
            f"{_count(suspect)} suspect: an audit check failed, so the number may not be true and "
            "is not compared. `bench show RECORD` has the evidence."
        )
    unlearned = [row for row in rows if row.learns is False]
    if unlearned:
        do = "row does" if len(unlearned) == 1 else "rows do"
        yield (
            f"{len(unlearned)} {do} not learn: the speed is that of a training that no longer "
            "trains. `bench show RECORD` has the losses."
        )
    wide = [row for row in rows if is_wide(row.samples_per_s_low, row.samples_per_s_high)]
    if wide:
        yield (
            f"{_count(wide)} too uncertain to use: the ends of the interval are more than 10-fold "
            "apart. Raise --launches."
        )
    if any(row.precision_reached is False for row in rows):
        yield "a precision target was not reached: raise measure.max_launches or the budget."


def _count(rows: Sequence[Row]) -> str:
    return "1 row is" if len(rows) == 1 else f"{len(rows)} rows are"
