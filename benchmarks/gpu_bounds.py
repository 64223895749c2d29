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
    """Return whether every case ended well or is refused, and none is suspect."""
    wrong = [
        f"{row['case']}: {row['reason'] or row['verdict_reason']}"
        for row in rows
        if row["outcome"] not in _GOOD or row["verdict"] == "suspect"
    ]
    measured = sum(row["outcome"] == "ok" for row in rows)
    figures = f"{measured} of {len(rows)} cases measured, exit code {code}"
    return Finding(
        f"{name}: its rows can be believed",
        code == 0 and measured > 0 and not wrong,
        "; ".join([figures, *wrong]),
    )


def beside(ours: Sequence[float], loop: Sequence[float]) -> Finding:
    """Return whether the harness reads what the loop reads, from pairs of one sitting."""
    ratio = median_interval([mine / other for mine, other in zip(ours, loop, strict=True)])
    bounds = "" if ratio.low is None else f" [{ratio.low:.3f}, {ratio.high:.3f}]"
    return Finding(
        f"harness / timm's loop is within {LOWER} to {UPPER}",
        ratio.against(LOWER, UPPER) is Verdict.INSIDE,
        f"{ratio.estimate:.3f}{bounds} over {len(ours)} pairs",
    )


def best_compiled(rows: Sequence[Row]) -> Row | None:
    """Return the row of amp-bf16, compiled, that uses most of the peak; null: none tells it."""
    known = [
        row
        for row in rows
        if row["mfu"] is not None
        and row["verdict"] != "suspect"
        and all(setting in row["settings"] for setting in _COMPILED)
    ]
    return max(known, key=lambda row: float(row["mfu"]), default=None)


def enough_of_the_peak(rows: Sequence[Row]) -> Finding:
    """Return whether amp-bf16, compiled, uses as much of the peak as it should."""
    bound = f"amp-bf16, compiled, uses {LEAST_MFU:.0%} of the dense bf16 peak or more"
    best = best_compiled(rows)
    if best is None:
        return Finding(bound, False, "no such row has an MFU: see `bench show` for why")
    figures = f"{best['mfu']:.1%} of {best['mfu_source']} ({best['case']})"
    return Finding(bound, float(best["mfu"]) >= LEAST_MFU, figures)


def gain(rows: Sequence[Row], loop: Sequence[float]) -> str:
    """Return the gain of the fastest row that can be believed over the loop, in words."""
    known = [row for row in rows if row["verdict"] in ("measured", "noisy")]
    if not known:
        return "no rung can be believed, so none is held against the loop"
    best = max(known, key=lambda row: float(row["samples_per_s"]))
    ratio = best["samples_per_s"] / statistics.geometric_mean(loop)
    return f"best rung: {best['case']}, {ratio:.2f} times the loop's rate"
