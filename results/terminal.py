"""The table on a terminal: one block a scenario, fewer columns where there is less room.

Everything that colour says is also said in words. Text from records is shown as text, never as
markup. This module knows how the table looks, and decides nothing about what it says.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from bench.results.legend import legend, warnings
from bench.results.notes import notes_of
from bench.results.record import moment
from bench.results.row import Row
from bench.results.table import Table
from bench.results.wording import (
    compiling,
    cost,
    energy,
    loader_wait,
    loss_gap,
    memory,
    offload,
    one_line,
    plain,
    ranks,
    scaling,
    speedup,
    standing,
    step,
    throughput,
    utilisation,
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
_UNLEARNED = "bold red"


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
    stacked: Callable[[Row], str] | None = None
    """What to show, in lines, where one line would cost another column its place."""


def _offload_in_lines(row: Row) -> str:
    return re.sub(", (?=saves|needs)", "\n", offload(row))


_COLUMNS = (
    _Column("case", lambda row: row.case, 0, "left", folds=True),
    _Column("backend", lambda row: row.backend, 3, "left"),
    _Column("ranks", ranks, 7),
    _Column("samples/s", throughput, 1, "left", narrow=lambda row: plain(row.samples_per_s)),
    _Column("speed-up", speedup, 4, "left"),
    _Column("scaling", scaling, 4, "left"),
    _Column("offload", offload, 3, "left", stacked=_offload_in_lines),
    _Column("loss gap", loss_gap, 6),
    _Column("step ms", step, 8),
    _Column("compile s", compiling, 9),
    _Column("memory", memory, 12),
    _Column("loader", loader_wait, 13),
    _Column("MFU", utilisation, 10),
    _Column("J/sample", energy, 11),
    _Column("cost/M", cost, 5),
    _Column("verdict", standing, 2, "left", stacked=lambda row: standing(row).replace(", ", ",\n")),
)
_NEEDED = 3
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
        shown: set[str] = set()
        hidden: dict[str, None] = {}
        for scenario, block in groupby(table.rows, key=lambda row: row.scenario):
            heads, lost = _print_scenario(console, scenario, list(block))
            shown |= set(heads)
            hidden |= dict.fromkeys(lost)
        _print_lines(console, legend(table.rows, shown), "dim")
        if hidden:
            told = f"no room for: {', '.join(hidden)}; widen the terminal or use --format json"
            _print_lines(console, [told], "dim")
        _print_lines(console, warnings(table.rows), "yellow")
    _print_lines(console, table.left_out, "yellow")


def _print_scenario(
    console: Console, scenario: str, rows: Sequence[Row]
) -> tuple[list[str], list[str]]:
    """Print one scenario's rows; returns the columns shown, and those that found no room."""
    console.print(Text(one_line(scenario), style="bold"))
    for line in _places(rows):
        console.print(Text(f"  {line}", style="dim"))
    columns = [column for column in _candidates(rows) if any(column.text(row) for row in rows)]
    widths = {column.head: _width(column, rows) for column in columns}
    if _total(columns, widths) > console.width:
        columns = [replace(c, text=c.stacked or c.text) for c in columns]
        widths |= {column.head: _width(column, rows) for column in columns if column.stacked}
    hidden = []
    while _total(columns, widths) > console.width:
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
    shown = [column.head for column in columns]
    for head, text in notes_of(rows, shown):
        notes.add_row(Text(head, style="dim"), Text(text))
    if notes.row_count:
        console.print(Padding(notes, (0, 0, 0, 2)))
    console.print()
    return shown, hidden


def _total(columns: Sequence[_Column], widths: Mapping[str, int]) -> int:
    return sum(widths[column.head] + _GAP for column in columns) - _GAP


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
    texts = (column.head, *(line for row in rows for line in _lines(column, row)))
    longest = max(cell_len(text) for text in texts)
    return min(longest, _WIDEST) if column.folds else longest


def _lines(column: _Column, row: Row) -> list[str]:
    # A line break that stands in a record is no line break of ours.
    return column.text(row).split("\n") if column.stacked else [one_line(column.text(row))]


def _cell(column: _Column, row: Row) -> Text:
    text = "\n".join(_lines(column, row))
    if column.head == "verdict":
        style = _UNLEARNED if row.learns is False else _STYLES.get(text, _FAILED)
        return Text(text, style=style)
    if column.head == "speed-up" and row.speedup_noisy:
        return Text(text, style=_STYLES["noisy"])
    return Text(text or "-", style="" if text else "dim")


def _candidates(rows: Sequence[Row]) -> Iterator[_Column]:
    # What offloading costs is told beside what it saves, and an efficiency beside the ranks.
    needed = {"memory"} if any(row.offloads for row in rows) else set()
    needed |= {"ranks"} if any(row.scaling is not None for row in rows) else set()
    for column in _COLUMNS:
        same_everywhere = len({column.text(row) for row in rows}) == 1
        if not (column.head in ("backend", "ranks") and same_everywhere):
            yield replace(column, keep=_NEEDED) if column.head in needed else column
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
        processes = f"{row.processes} process{'es' if row.processes > 1 else ''}"
        if row.devices not in (None, row.processes):
            processes += f" on {row.devices} devices"
        if (nodes := row.knobs.get("nodes", 1)) != 1:
            processes += f" on {nodes} nodes"
        device = one_line(row.device) if row.device else "no device"
        place = f"{row.backend}: {device}, {processes}", row.created is None
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


def _print_lines(console: Console, lines: Iterable[str], style: str) -> None:
    for line in lines:
        console.print(Text(one_line(line), style=style))


def _chosen(rows: Sequence[Row], names: Sequence[str]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for name in names:
        grid.add_column(Text(name), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(plain(query.cell(row, name)) or "-") for name in names))
    return grid
