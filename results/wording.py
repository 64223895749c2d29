"""The words and figures of a row, the same in every format: intervals, units, verdicts, reasons.

This module knows one row at a time, and not where its text is put.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import orjson
from pydantic import JsonValue

from bench.results.row import Row

DOES_NOT_LEARN = "does not learn"
_WIDE = 10.0
_UNPRINTED = {"Cc", "Cf", "Zl", "Zp"}


def one_line(text: str) -> str:
    """Return a text from a record without line breaks and control characters."""
    return re.sub(r" +", " ", printed(text)).strip()


def printed(text: str) -> str:
    """Return a line from a record without control characters, its spaces kept."""
    return "".join(" " if unicodedata.category(c) in _UNPRINTED else c for c in text)


def escape_markdown(text: str) -> str:
    """Return a text that stays one cell and shows as it is written."""
    return re.sub(r"([\\|<>`*_\[\]~])", r"\\\1", one_line(text))


def plain(value: JsonValue) -> str:
    """Return a value of any column as text; unknown is empty."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return figure(value)
        case str():
            return one_line(value)
        case int():
            return str(value)
        case _:
            return orjson.dumps(value).decode()


def figure(value: float, like: float | None = None) -> str:
    """Return a number with four significant digits, or as many decimals as those of `like`."""
    # Rounded first: 99.999 has four digits as 100.0, and not as 100.00.
    reference = abs(float(f"{value if like is None else like:.3e}"))
    magnitude = math.floor(math.log10(reference)) if reference else 0
    return f"{value:.{min(max(3 - magnitude, 0), 9)}f}"


def is_wide(low: float | None, high: float | None) -> bool:
    """Return whether the bounds lie so far apart that their digits mean nothing."""
    return low is not None and high is not None and high > _WIDE * low


def rough(value: float) -> str:
    """Return a bound of a wide interval with two significant digits, far ones as 5.5e+11."""
    if value and not 0.01 <= abs(value) < 10_000:  # noqa: PLR2004
        return f"{value:.1e}"
    return f"{float(f'{value:.1e}'):.10g}"


def with_interval(estimate: float | None, low: float | None, high: float | None) -> str:
    """Return `12.30 [12.11, 12.58]`, or the estimate alone where there is no interval."""
    if estimate is None:
        return ""
    if low is None or high is None:
        return figure(estimate)
    if is_wide(low, high):
        return f"{figure(estimate)} [{rough(low)}, {rough(high)}]"
    return f"{figure(estimate)} [{figure(low, estimate)}, {figure(high, estimate)}]"


def throughput(row: Row) -> str:
    """Return the samples per second of a row with their interval."""
    return with_interval(row.samples_per_s, row.samples_per_s_low, row.samples_per_s_high)


def speedup(row: Row) -> str:
    """Return the speed-up of a row with its interval; `~` marks a noisy one."""
    if row.speedup is None:
        return ""
    mark = "~" if row.speedup_noisy else ""
    return mark + ratio(row.speedup, row.speedup_low, row.speedup_high)


def scaling(row: Row) -> str:
    """Return the series and the efficiency of a row on several devices; `~` marks a noisy one."""
    if row.scaling is None:
        return ""
    mark = "~" if row.scaling_noisy else ""
    found = ratio(row.scaling, row.scaling_low, row.scaling_high, unit="")
    return f"{row.scaling_series} {mark}{found}"


def offload(row: Row) -> str:
    """Return speed over that of the same without offloading, and what is saved on the device.

    `~` marks a ratio of which one side is noisy.
    """
    if row.offload_ratio is None:
        return ""
    mark = "~" if row.offload_noisy else ""
    found = mark + ratio(row.offload_ratio, row.offload_ratio_low, row.offload_ratio_high)
    told = _saved(row)
    return f"{found}, {told}" if told else found


def _saved(row: Row) -> str:
    if row.own_memory is False:
        return "saves nothing"
    if row.offload_saved_bytes is None:
        return ""
    more = row.offload_saved_bytes < 0
    return f"{'needs' if more else 'saves'} {binary(abs(row.offload_saved_bytes))}" + more * " more"


def ratio(estimate: float, low: float | None, high: float | None, unit: str = "x") -> str:
    """Return `0.951x [0.940, 0.962]`, or the ratio alone where there is no interval."""
    if low is None or high is None:
        return f"{estimate:.2f}{unit}"
    if is_wide(low, high):
        return f"{estimate:.2f}{unit} [{rough(low)}, {rough(high)}]"
    decimals = 2 if high - low > 0.04 else 3  # noqa: PLR2004
    first, *bounds = (f"{v:.{decimals}f}" for v in (estimate, low, high))
    return f"{first}{unit} [{', '.join(bounds)}]"


def compiling(row: Row) -> str:
    """Return the seconds of compiling, cold and warm."""
    return " / ".join(f"{s:.1f}" for s in (row.compile_cold_s, row.compile_warm_s) if s is not None)


def memory(row: Row) -> str:
    """Return the device's peak memory in binary units."""
    return "" if row.peak_memory_bytes is None else binary(row.peak_memory_bytes)


def binary(count: int) -> str:
    """Return a count of bytes in binary units."""
    gib = count / 2**30
    return f"{gib:.2f} GiB" if gib >= 1 else f"{count / 2**20:.0f} MiB"


def ranks(row: Row) -> str:
    """Return the number of processes, and where these have several devices, of how many each."""
    if row.devices in (None, row.processes):
        return str(row.processes)
    return f"{row.processes} of {(row.devices or 0) // row.processes}"


def step(row: Row) -> str:
    """Return the milliseconds of a step."""
    return "" if row.step_ms is None else figure(row.step_ms)


def loader_wait(row: Row) -> str:
    """Return the share of the time that the step waited for its loader."""
    return "" if row.loader_wait_share is None else f"{100 * row.loader_wait_share:.1f} %"


def loss_gap(row: Row) -> str:
    """Return how far the loss ends from that of fp32, with its sign. Unit: nats."""
    return "" if row.loss_gap is None else signed(row.loss_gap)


def signed(difference: float) -> str:
    """Return a difference with three decimals and its sign; none where they are all 0."""
    text = f"{difference:+.3f}"
    return text[1:] if float(text) == 0 else text


def utilisation(row: Row) -> str:
    """Return the share of the device's peak that the model's products reach."""
    return "" if row.mfu is None else f"{100 * row.mfu:.1f} %"


def energy(row: Row) -> str:
    """Return the joules of a sample."""
    return "" if row.energy_j_per_sample is None else figure(row.energy_j_per_sample)


def cost(row: Row) -> str:
    """Return what a million samples cost, with the currency."""
    if row.cost_per_million_samples is None:
        return ""
    return f"{figure(row.cost_per_million_samples)} {row.currency}"


def standing(row: Row) -> str:
    """Return the verdict, or the outcome of a row that never got to one.

    A row whose training does not train says so here: its speed alone must not be read.
    """
    told = marked(row.verdict or row.outcome or "", simulated=row.simulated)
    return f"{told}, {DOES_NOT_LEARN}" if row.learns is False else told


def marked(text: str, *, simulated: bool) -> str:
    """Return a figure or what is told of it, with the word that its device was pretended."""
    return f"{text}, simulated" if simulated else text


def citations(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield what a reader needs to check the figures that rest on something outside the run."""
    kinds: tuple[tuple[str, Callable[[Row], str | None]], ...] = (
        ("cost/M", lambda row: row.cost_source),
        ("MFU", lambda row: row.mfu_source),
        ("J/sample", lambda row: row.energy_source),
    )
    for name, source_of in kinds:
        sources = dict.fromkeys(source_of(row) for row in rows)
        yield from ((name, one_line(source)) for source in sources if source)


def sides_left_out(count: int) -> list[str]:
    """Return the line that tells of so many records of comparisons; none where there are none."""
    if count == 0:
        return []
    records = "1 record" if count == 1 else f"{count} records"
    return [f"left out: {records} of `bench ab`, which `bench show` and `bench compare` read"]


def remarks(row: Row) -> list[str]:
    """Return what has to be said beside the numbers of a row, most important first."""
    failed = row.audit if row.audit and row.audit != "pass" else None
    # The verdict's own reason repeats the first disturbance that was found.
    noise = row.audit_noise if row.verdict == "measured" or not row.verdict_reason else None
    unlearned = f"{DOES_NOT_LEARN}: {row.health_reason}" if row.learns is False else None
    missed = "the interval is wider than asked" if row.precision_reached is False else None
    claimed = row.remark if row.source else None
    parts = [
        *(row.reason, row.remedy, row.verdict_reason or failed, noise, unlearned, missed),
        *(row.audit_remarks, claimed),
    ]
    return [one_line(part) for part in parts if part]
