"""What `gpu_check.py` holds the figures of a GPU against; arithmetic alone.

A bound that cannot be judged, for want of a figure, is missed: it was not shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
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
_GOOD = ("ok", "unsupported")

Row = Mapping[str, Any]
"""As `bench run --format json` prints it."""


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


def rows_can_be_believed(name: str, rows: Sequence[Row], code: int) -> Finding:
    """Return whether all cases ended well or are refused, none is suspect and none stands still."""
    wrong = [
        f"{row['case']}: {row['reason'] or row['verdict_reason']}"
        for row in rows
        if row["outcome"] not in _GOOD or row["verdict"] == "suspect"
    ]
    wrong += [f"{row['case']}: {DOES_NOT_LEARN}: {row['health_reason']}" for row in unlearned(rows)]
    measured = sum(row["outcome"] == "ok" for row in rows)
    figures = f"{measured} of {len(rows)} cases measured, exit code {code}"
    return Finding(
        f"{name}: its rows can be believed",
        code == 0 and measured > 0 and not wrong,
        "; ".join([figures, *wrong]),
    )


def unlearned(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose training does not train: their speed is worth nothing."""
    return [row for row in rows if row["learns"] is False]


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


def best_compiled(rows: Sequence[Row]) -> Row | None:
    """Return the row of amp-bf16, compiled, that uses most of the peak; null: none tells it."""
    known = [
        row
        for row in rows
        if row["mfu"] is not None
        and row["verdict"] != "suspect"
        and row["learns"] is not False
        and _is_compiled(row)
    ]
    return max(known, key=lambda row: float(row["mfu"]), default=None)


def to_profile(rows: Sequence[Row]) -> Row | None:
    """Return the row of amp-bf16, compiled, that is to be looked into; null: none has a number.

    The one that uses most of the peak, else the fastest.
    """
    compiled = [row for row in rows if row["outcome"] == "ok" and _is_compiled(row)]
    return best_compiled(rows) or max(compiled, key=_rate, default=None)


def enough_of_the_peak(rows: Sequence[Row]) -> Finding:
    """Return whether amp-bf16, compiled, uses as much of the peak as it should."""
    bound = f"amp-bf16, compiled, uses {LEAST_MFU:.0%} of the dense bf16 peak or more"
    best = best_compiled(rows)
    if best is None:
        return Finding(bound, False, "no such row has an MFU: see `bench show` for why")
    figures = f"{best['mfu']:.1%} of {best['mfu_source']} ({best['case']})"
    return Finding(bound, float(best["mfu"]) >= LEAST_MFU, figures)


def gain(rows: Sequence[Row], loop: Sequence[float]) -> str:
    """Return the gain of the fastest row that can be believed, and trains, over the loop."""
    idle = unlearned(rows)
    known = [row for row in rows if row["verdict"] in ("measured", "noisy") and row not in idle]
    names = ", ".join(row["case"] for row in idle)
    without = f" (left out, as they do not learn: {names})" if idle else ""
    if not known:
        return f"no rung can be believed, so none is held against the loop{without}"
    best = max(known, key=_rate)
    ratio = _rate(best) / statistics.geometric_mean(loop)
    return f"best rung: {best['case']}, {ratio:.2f} times the loop's rate{without}"


def _is_compiled(row: Row) -> bool:
    return all(setting in row["settings"] for setting in _COMPILED)


def _rate(row: Row) -> float:
    return float(row["samples_per_s"])
