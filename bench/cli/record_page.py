"""A record as a page: what the number is and whether it can be believed first, all figures after.

This module knows the order of the page and its layout. What it says in sentences is written in
`record_verdict` and `record_words`, its figures in `record_details`. Text from a record is shown as
text, never as markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.cli import record_verdict, record_words
from bench.cli.record_details import launch_lines, software_lines, used_lines
from bench.results.checks import Judged, failed, judged
from bench.results.prices import Prices
from bench.results.record import CheckResult, Record, Weight
from bench.results.row import Row
from bench.results.rows import rows_of
from bench.results.store import Stored
from bench.results.wording import compiling, figure, one_line, printed, standing, throughput
from bench.scenarios.identity import tagged_fields
from bench.scenarios.schema import Knobs

_WIDEST = 110
"""Columns of characters: longer lines are hard to read."""
_STYLES = {"measured": "bold green", "noisy": "bold yellow"}
_WRONG = "bold red"
_IDENTITIES = (
    "work: what is computed, equal where rows are compared by ratio; treatment: how it is "
    "computed; protocol: how it is measured"
)


def write_page(
    stored: Stored, out: TextIO, *, prices: Prices | None = None, width: int | None = None
) -> None:
    """Write the page of a record.

    Args:
        stored: The record.
        out: Where to; colour only where it is a terminal.
        prices: By which a million samples cost something; null leaves the cost unknown.
        width: Columns of characters; null is the terminal's own, and at most 110.

    Raises:
        ScenarioError: two of the prices are for the record's device.
    """
    (row,) = rows_of([stored], prices)
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    console.width = min(console.width, _WIDEST)
    page = _Page(console)
    _head(stored.record, row, page)
    if stored.record.statistics is not None:
        _number(stored.record, row, page)
        page.section("Would a naive clock have misled?", record_words.naive(stored.record).text)
        page.section("Does it still learn?", record_words.training(stored.record).text)
        used = "What it used" if row.verdict != "suspect" else "What it used, were the number true"
        page.pairs(used, used_lines(stored.record, row, priced=prices is not None))
    elif stored.record.log_tail:
        page.log("The last lines of its log", stored.record.log_tail)
    _audit(stored.record, page)
    for launch in stored.record.launches:
        page.pairs(f"Launch {launch.index}", launch_lines(launch))
    page.pairs("Software", software_lines(stored.record))
    page.knobs(stored.record.requested.knobs)


def knob_grid(knobs: Knobs) -> Table:
    """Return every knob that has a value, with the identity it belongs to."""
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for name, identity, value in tagged_fields(knobs):
        if value is not None:
            tag = Text(identity.value, style="dim")
            grid.add_row(Text(f"  {name}"), Text(one_line(str(value))), tag)
    return grid


class _Page:
    """Sections of one look on one console."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, text: str, style: str = "", indent: int = 0) -> None:
        self._put(Text(one_line(text), style=style), indent)

    def title(self, text: str, style: str = "bold") -> None:
        self._console.print()
        self.line(text, style)

    def section(self, title: str, text: str) -> None:
        self.title(title)
        self.line(text, indent=2)

    def log(self, title: str, text: str) -> None:
        self.title(title)
        for line in text.splitlines():
            self._put(Text(printed(line.expandtabs()), style="dim"), 2)

    def pairs(self, title: str, pairs: Iterable[tuple[str, str]]) -> None:
        """Print a section of names and what they are."""
        self.title(title)
        self.grid(pairs, 2)

    def grid(self, pairs: Iterable[tuple[str, str]], indent: int) -> None:
        """Print names and what they are, one below the other; a name that repeats stands once."""
        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold", ratio=1)
        before = None
        for name, text in pairs:
            grid.add_row(Text("" if name == before else name, style="dim"), Text(one_line(text)))
            before = name
        if grid.row_count:
            self._put(grid, indent)

    def knobs(self, knobs: Knobs) -> None:
        self.title("Knobs")
        self.line(_IDENTITIES, "dim", 2)
        self._console.print(knob_grid(knobs))

    def _put(self, what: RenderableType, indent: int) -> None:
        self._console.print(Padding(what, (0, 0, 0, indent)) if indent else what)


def _head(record: Record, row: Row, page: _Page) -> None:
    asked = record.requested
    ranks = "1 process" if record.processes == 1 else f"{record.processes} processes"
    if record.devices != record.processes:
        ranks += f" on {record.devices} devices"
    if (nodes := asked.knobs.nodes) > 1:
        ranks += f" on {nodes} nodes"
    device = record.device.model if record.device else "no device"
    side = "" if record.side is None else f", side {record.side} of a comparison"
    page.line(f"{asked.scenario} / {asked.case}", "bold")
    page.line(
        f"{record.backend}: {device}, {ranks}, {record.created[:16].replace('T', ' ')} UTC, "
        f"record {record.id}{side}",
        "dim",
    )
    answer = record_verdict.verdict(record)
    wrong = row.learns is False or row.simulated
    style = _WRONG if wrong else _STYLES.get(row.verdict or "", _WRONG)
    page.title(f"{answer.short}.", style)
    for sentence in answer.sentences:
        page.line(sentence, indent=2)
    page.grid([*answer.named, *record_verdict.to_know(record)], 2)


def _number(record: Record, row: Row, page: _Page) -> None:
    def pairs() -> Iterator[tuple[str, str]]:
        over = "1 launch" if row.launches == 1 else f"{row.launches} launches"
        yield "verdict", standing(row)
        interval = "95 % interval" if row.samples_per_s_low is not None else "no interval"
        yield "samples/s", f"{throughput(row)} ({interval}, {over})"
        if len(record.launches) > 1:
            yield "launches", ", ".join(figure(x.samples_per_s) for x in record.launches)
        if row.step_ms is not None:
            yield "a step", f"{figure(row.step_ms)} ms on average"
        if row.devices is not None and row.devices > 1:
            knobs = record.requested.knobs
            each = knobs.batch_size * knobs.gradient_accumulation
            yield "a batch", f"{row.global_batch} samples: {each} on each of {row.devices} devices"
        if compiling(row):
            caches = "" if row.compile_warm_s is None else " (cold / warm cache)"
            yield "compiling", f"{compiling(row)} s{caches}, before the windows"
        if row.settings:
            yield "settings", row.settings

    page.pairs("The number", pairs())


_KINDS = {Weight.SUSPECT: "failed", Weight.NOISY: "disturbed", Weight.REMARK: "remark"}
_KIND_STYLES = {Weight.SUSPECT: _WRONG, Weight.NOISY: "bold yellow", Weight.REMARK: "bold cyan"}


def _audit(record: Record, page: _Page) -> None:
    checks = judged(record.launches)
    if not checks:
        return
    page.title("Audit")
    explained = record_verdict.explained_by_the_verdict(record)
    for weight, kind in _KINDS.items():
        for check in failed(record.launches, weight):
            page.line(f"{kind}: {_named(check)}", _KIND_STYLES[weight], 2)
            for evidence in check.evidence:
                page.line(evidence, indent=4)
            if check.name != explained:
                page.line(record_verdict.explanation(check.name), "dim", 4)
    passed = [check for check in checks if check.result is CheckResult.PASS]
    if passed:
        page.line(f"passed: {len(passed)}", "green", 2)
        page.grid(((_named(check), check.evidence[0]) for check in passed), 4)
    idle = [check for check in checks if check.result is CheckResult.NOT_APPLICABLE]
    if idle:
        page.line(f"not applicable: {len(idle)}", "dim", 2)
        page.grid(((check.name, check.evidence[0]) for check in idle), 4)


def _named(check: Judged) -> str:
    return f"{check.name} ({check.where})" if check.where else check.name
