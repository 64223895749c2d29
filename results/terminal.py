"""The table on a terminal: one block a scenario, fewer columns where there is less room.

Everything that colour says is also said in words. Text from records is shown as text, never as
markup. This module knows how the table looks, and decides nothing about what it says.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from bench.results import query
from bench.results.record import moment
from bench.results.rows import Row
from bench.results.table import Table
from bench.results.wording import (
    compiling,
    is_wide,
    loader_wait,
    memory,
    one_line,
    plain,
    remarks,
    speedup,
    standing,
    step,
    throughput,
)

_STYLES = {
    "measured": "green",
    "noisy": "yellow",
    "suspect": "bold red",
    "claimed": "cyan",
    "unsupported": "dim",
    "unavailable": "dim",
    "interrupted": "yellow",
}
_FAILED = "red"


@dataclass(frozen=True)
class _Column:
    head: str
    text: Callable[[Row], str]
    keep: int
    """Columns with a lower number are the last to go."""
    justify: Literal["left", "right"] = "right"
    folds: bool = False
    narrow: Callable[[Row], str] | None = None
    """What to show where even the last columns do not fit."""


_COLUMNS = (
    _Column("case", lambda row: row.case, 0, "left", folds=True),
    _Column("backend", lambda row: row.backend, 3, "left"),
    _Column("ranks", lambda row: str(row.processes), 5),
    _Column("samples/s", throughput, 1, "left", narrow=lambda row: plain(row.samples_per_s)),
    _Column("speed-up", speedup, 4, "left"),
    _Column("step ms", step, 6),
    _Column("compile s", compiling, 7),
    _Column("memory", memory, 8),
    _Column("loader", loader_wait, 9),
    _Column("verdict", standing, 2, "left"),
)
_LAST_TO_GO = 2
_GAP = 3
_NARROWEST = 8
_WIDEST = 40


def print_table(table: Table, out: TextIO, width: int | None = None) -> None:
    """Print a table with its legend and its warnings.

    Args:
        table: What to print.
        out: Where to; colour only where it is a terminal.
        width: Columns of characters; null is the terminal's own width.
    """
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
    if not table.rows:
        console.print("No rows.")
    elif table.columns is not None:
        console.print(_chosen(table.rows, table.columns))
    else:
        hidden: dict[str, None] = {}
        for scenario, block in groupby(table.rows, key=lambda row: row.scenario):
            hidden |= dict.fromkeys(_print_scenario(console, scenario, list(block)))
        _print_lines(console, _legend(table.rows, list(hidden)), "dim")
        _print_lines(console, _warnings(table.rows), "yellow")
    _print_lines(console, (f"left aside: {problem}" for problem in table.problems), "yellow")


def _print_scenario(console: Console, scenario: str, rows: Sequence[Row]) -> list[str]:
    console.print(Text(one_line(scenario), style="bold"))
    for line in _places(rows):
        console.print(Text(f"  {line}", style="dim"))
    columns = [column for column in _candidates(rows) if any(column.text(row) for row in rows)]
    widths = {column.head: _width(column, rows) for column in columns}
    hidden = []
    while sum(widths[column.head] + _GAP for column in columns) - _GAP > console.width:
        victim = max(columns, key=lambda column: column.keep)
        if victim.keep <= _LAST_TO_GO:
            columns = [replace(c, text=c.narrow or c.text) for c in columns]
            break
        columns.remove(victim)
        hidden.append(victim.head)
    console.print(_grid(columns, rows))
    notes = Grid.grid(padding=(0, 2, 0, 0), pad_edge=False)
    notes.add_column(overflow="fold", max_width=max(12, console.width // 3))
    notes.add_column(overflow="fold", ratio=1)
    for head, text in _notes(rows):
        notes.add_row(Text(head, style="dim"), Text(text))
    if notes.row_count:
        console.print(Padding(notes, (0, 0, 0, 2)))
    console.print()
    return hidden


def _grid(columns: Sequence[_Column], rows: Sequence[Row]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for column in columns:
        grid.add_column(
            column.head,
            justify=column.justify,
            overflow="fold",
            min_width=min(_NARROWEST, _width(column, rows)),
            max_width=_WIDEST if column.folds else None,
            no_wrap=not column.folds,
        )
    session: str | None = rows[0].session
    for row in rows:
        if row.session != session:
            grid.add_section()
            session = row.session
        grid.add_row(*(_cell(column, row) for column in columns))
    return grid


def _width(column: _Column, rows: Sequence[Row]) -> int:
    longest = max(cell_len(text) for text in (column.head, *(column.text(row) for row in rows)))
    return min(longest, _WIDEST) if column.folds else longest


def _cell(column: _Column, row: Row) -> Text:
    text = one_line(column.text(row))
    if column.head == "verdict":
        return Text(text, style=_STYLES.get(text, _FAILED))
    if column.head == "speed-up" and row.speedup_noisy:
        return Text(text, style=_STYLES["noisy"])
    return Text(text or "-", style="" if text else "dim")


def _candidates(rows: Sequence[Row]) -> Iterator[_Column]:
    for column in _COLUMNS:
        same_everywhere = len({column.text(row) for row in rows}) == 1
        if not (column.head in ("backend", "ranks") and same_everywhere):
            yield column
        if column.head == "case":
            differing = _differing_knobs(rows)
            if differing:
                yield _Column("settings", _settings_text(differing), 3, "left", folds=True)


def _settings_text(names: Sequence[str]) -> Callable[[Row], str]:
    return lambda row: ", ".join(
        f"{name}={plain(row.knobs[name]) or 'null'}" for name in names if name in row.knobs
    )


def _differing_knobs(rows: Sequence[Row]) -> list[str]:
    """Return the knobs that tell rows of one case apart, which its name does not."""
    alike: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if row.knobs:
            alike.setdefault((row.case, row.backend, row.processes), []).append(row)
    differing: dict[str, None] = {}
    for group in alike.values():
        for name in group[0].knobs:
            if len({plain(row.knobs.get(name)) for row in group}) > 1:
                differing[name] = None
    return list(differing)


def _places(rows: Sequence[Row]) -> list[str]:
    times: dict[tuple[str, bool], list[dt.datetime]] = {}
    for row in rows:
        ranks = f"{row.processes} process{'es' if row.processes > 1 else ''}"
        device = one_line(row.device) if row.device else "no device"
        place = f"{row.backend}: {device}, {ranks}", row.created is None
        times.setdefault(place, []).extend([moment(row.created)] if row.created else [])
    lines = [
        f"{place}, {'published' if published else _span(min(when), max(when))}"
        for (place, published), when in times.items()
    ]
    # More places than this are too many for a heading; the record of each row tells its own.
    return lines[:4] + [f"and {len(lines) - 4} more"] * (len(lines) > 4)  # noqa: PLR2004


def _span(first: dt.datetime, last: dt.datetime) -> str:
    begin, end = f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M}"
    if begin == end:
        return f"{begin} UTC"
    return f"{begin} to {end[11:] if first.date() == last.date() else end} UTC"


def _notes(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """Yield what has to be said beside the numbers, the same words once for all their rows."""
    said: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        words = "; ".join(remarks(row))
        if words:
            said.setdefault((standing(row), words), []).append(row.case)
    for (what, words), cases in said.items():
        yield f"{_names(cases)} ({what})", words
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.speedup_reason and not row.source:
            reasons.setdefault(row.speedup_reason, []).append(row.case)
    for reason, cases in reasons.items():
        yield "no speed-up", one_line(f"{_names(cases)}: {reason}")
    for source in dict.fromkeys(row.source for row in rows if row.source):
        yield "claimed by", one_line(source)


def _names(cases: Sequence[str]) -> str:
    return one_line(", ".join(dict.fromkeys(cases)))


def _legend(rows: Sequence[Row], hidden: Sequence[str]) -> Iterator[str]:
    numbers = [row for row in rows if row.samples_per_s is not None]
    if any(row.samples_per_s_low is not None for row in numbers):
        yield "[low, high]: 95 % interval over launches"
    if any(row.samples_per_s_low is None and row.session for row in numbers):
        yield "a number without an interval comes from one launch"
    if any(row.speedup is not None for row in numbers):
        yield (
            "speed-up: over the first row of the same session and backend, from launches paired "
            "within rounds"
        )
    if any(row.speedup_noisy for row in numbers):
        yield "~: a ratio of which one side is noisy"
    if any(row.compile_warm_s is not None for row in numbers):
        yield "compile s: cold / warm cache"
    if any(row.verdict == "claimed" for row in rows):
        yield "claimed: published by others, not measured here, and never compared by ratio"
    if hidden:
        yield f"no room for: {', '.join(hidden)}; widen the terminal or use --format json"


def _warnings(rows: Sequence[Row]) -> Iterator[str]:
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


def _print_lines(console: Console, lines: Iterator[str], style: str) -> None:
    for line in lines:
        console.print(Text(one_line(line), style=style))


def _chosen(rows: Sequence[Row], names: Sequence[str]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for name in names:
        grid.add_column(Text(name), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(plain(query.cell(row, name)) or "-") for name in names))
    return grid
