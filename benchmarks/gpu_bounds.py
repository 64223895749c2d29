"""What `gpu_check.py` holds the figures of a GPU against; arithmetic alone.

A bound that cannot be judged, for want of a figure, is missed: it was not shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from median_interval import Verdict, median_interval

from bench.results.wording import DOES_NOT_LEARN

LOWER, UPPER = 0.98, 1.02
"""Of harness / loop, in one sitting."""
LEAST_MFU = 0.45
"""Of amp-bf16, compiled, against the datasheet's dense bf16 peak."""
_COMPILED = ("precision=amp-bf16", "compile=inductor")

Row = Mapping[str, Any]
"""As `bench run --format json` prints it."""


@dataclass(frozen=True)
class Ran:
    """What a run of a scenario left, and what was to be expected of it."""

    rows: Sequence[Row]
    code: int
    """Exit code of the command."""
    beyond: Collection[str] = ()
    """Cases that such a device refuses, whatever is installed beside it."""
    unwatched: str | None = None
    """The setting by which no row tells whether it learns; null: every row has to."""


@dataclass(frozen=True)
class Finding:
    """One bound, whether it holds, and by which figures."""

    bound: str
    holds: bool
    figures: str

    def __str__(self) -> str:
        return f"{'holds ' if self.holds else 'MISSED'}  {self.bound}: {self.figures}"


def tests_pass(report: str, code: int) -> Finding:
    """Return whether some tests ran on the device, and all that ran passed.

    Args:
        report: JUnit's XML, as pytest writes it.
        code: Exit code of pytest.
    """
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ElementTree.fromstring(report).iter("testsuite"):  # noqa: S314 - our own pytest's
        for name in counts:
            counts[name] += int(suite.get(name, "0"))
    ran = counts["tests"] - counts["skipped"]
    bad = counts["failures"] + counts["errors"]
    return Finding(
        "the tests of the device pass",
        code == 0 and ran > 0 and bad == 0,
        f"{ran} ran, {bad} failed, {counts['skipped']} were skipped (pytest ended with {code})",
    )


def rows_can_be_believed(name: str, ran: Ran) -> Finding:
    """Return whether every case that such a device can run was measured, is no suspect, and learns.

    A case that is refused for want of a library, or for its batch size, was not shown.
    """
    refused = [row["case"] for row in ran.rows if _is_beyond(row, ran)]
    wrong = [
        f"{row['case']}: {row['outcome']}: {row['reason']}"
        for row in ran.rows
        if row["outcome"] != "ok" and row["case"] not in refused
    ]
    wrong += [
        f"{row['case']}: {row['verdict_reason']}" for row in ran.rows if row["verdict"] == "suspect"
    ]
    wrong += [f"{row['case']}: {_of_learning(row)}" for row in unlearned(ran)]
    measured = sum(row["outcome"] == "ok" for row in ran.rows)
    figures = [f"{measured} of {len(ran.rows)} cases measured, exit code {ran.code}"]
    if refused:
        figures.append(f"no such device runs {', '.join(refused)}")
    if ran.unwatched:
        figures.append(f"whether they learn was not looked at ({ran.unwatched})")
    return Finding(
        f"{name}: its rows can be believed",
        ran.code == 0 and measured > 0 and not wrong,
        "; ".join([*figures, *wrong]),
    )


def unlearned(ran: Ran) -> list[Row]:
    """Return the rows whose training does not train, or was to be looked at and is not known to.

    Their speed is worth nothing.
    """
    bad = (False,) if ran.unwatched else (False, None)
    return [row for row in ran.rows if row["outcome"] == "ok" and row["learns"] in bad]


def beside(ours: Sequence[float], loop: Sequence[float], suspect: Sequence[str]) -> Finding:
    """Return whether the harness reads what the loop reads, from pairs of one sitting.

    Args:
        ours: Rates of the harness.
        loop: Those of the loop.
        suspect: Checks by which a rate of the harness may not be so: with one, nothing is shown.
    """
    ratio = median_interval([mine / other for mine, other in zip(ours, loop, strict=True)])
    bounds = "" if ratio.low is None else f" [{ratio.low:.3f}, {ratio.high:.3f}]"
    doubts = [f"{name} failed {suspect.count(name)} times" for name in dict.fromkeys(suspect)]
    return Finding(
        f"harness / timm's loop is within {LOWER} to {UPPER}",
        ratio.against(LOWER, UPPER) is Verdict.INSIDE and not suspect,
        "; ".join([f"{ratio.estimate:.3f}{bounds} over {len(ours)} pairs", *doubts]),
    )


def best_compiled(ran: Ran) -> Row | None:
    """Return the row of amp-bf16, compiled, that uses most of the peak; null: none tells it."""
    idle = unlearned(ran)
    known = [
        row
        for row in ran.rows
        if row["mfu"] is not None
        and row["verdict"] != "suspect"
        and row not in idle
        and _is_compiled(row)
    ]
    return max(known, key=lambda row: float(row["mfu"]), default=None)


def to_profile(ran: Ran) -> Row | None:
    """Return the row of amp-bf16, compiled, that is to be looked into; null: none has a number.

    The one that uses most of the peak, else the fastest.
    """
    compiled = [row for row in ran.rows if row["outcome"] == "ok" and _is_compiled(row)]
    return best_compiled(ran) or max(compiled, key=_rate, default=None)


def enough_of_the_peak(ran: Ran) -> Finding:
    """Return whether amp-bf16, compiled, uses as much of the peak as it should."""
    bound = f"amp-bf16, compiled, uses {LEAST_MFU:.0%} of the dense bf16 peak or more"
    best = best_compiled(ran)
    if best is None:
        return Finding(
            bound, False, "no such row that can be believed has an MFU: see `bench show`"
        )
    figures = f"{best['mfu']:.1%} of {best['mfu_source']} ({best['case']})"
    return Finding(bound, float(best["mfu"]) >= LEAST_MFU, figures)


def gain(ran: Ran, loop: Sequence[float]) -> str:
    """Return the gain of the fastest row that can be believed, and trains, over the loop."""
    idle = unlearned(ran)
    known = [row for row in ran.rows if row["verdict"] in ("measured", "noisy") and row not in idle]
    names = ", ".join(row["case"] for row in idle)
    without = f" (left out, as they are not known to learn: {names})" if idle else ""
    if not known:
        return f"no rung can be believed, so none is held against the loop{without}"
    best = max(known, key=_rate)
    ratio = _rate(best) / statistics.geometric_mean(loop)
    return f"best rung: {best['case']}, {ratio:.2f} times the loop's rate{without}"


def _is_beyond(row: Row, ran: Ran) -> bool:
    return row["outcome"] == "unsupported" and row["case"] in ran.beyond


def _of_learning(row: Row) -> str:
    told = DOES_NOT_LEARN if row["learns"] is False else "is not known to learn"
    return f"{told}: {row['health_reason'] or 'it was not looked at'}"


def _is_compiled(row: Row) -> bool:
    return all(setting in row["settings"] for setting in _COMPILED)


def _rate(row: Row) -> float:
    return float(row["samples_per_s"])
