"""The table: read from results folders, and written for people, for programs and for documents.

This module knows rows and formats; what a row says was decided before (`rows`), and the terminal's
layout is `terminal`'s.
"""

from __future__ import annotations

import contextlib
import csv
import enum
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import orjson
from pydantic import ValidationError

from bench.results import query
from bench.results.prices import Prices
from bench.results.record import Publication
from bench.results.row import Row
from bench.results.rows import beside, rows_of, rows_of_claims
from bench.results.store import Problem, Store, StoreError, printable
from bench.results.wording import (
    citations,
    compiling,
    cost,
    energy,
    escape_markdown,
    loader_wait,
    loss_gap,
    memory,
    offload,
    plain,
    ranks,
    remarks,
    scaling,
    sides_left_out,
    speedup,
    standing,
    step,
    throughput,
    utilisation,
)

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = Path(__file__).parent / "published"
TABLE_SCHEMA_VERSION = 1


class Format(enum.StrEnum):
    """How a table is written."""

    RICH = "rich"
    JSON = "json"
    MARKDOWN = "markdown"
    CSV = "csv"


@dataclass(frozen=True)
class Table:
    """Rows, the columns that were asked for, and what could not be read."""

    rows: Sequence[Row]
    columns: Sequence[str] | None = None
    """Names of columns or knobs; null shows each format's own choice."""
    problems: Sequence[Problem] = field(default_factory=tuple)
    sides: int = 0
    """Records of comparisons, which are no rows."""

    @property
    def left_out(self) -> list[str]:
        """Return what is to be said of records that are no rows, in lines."""
        return sides_left_out(self.sides) + [f"left aside: {problem}" for problem in self.problems]


def read(
    folders: Sequence[Path],
    *,
    conditions: Sequence[str] = (),
    columns: str | None = None,
    published: Sequence[Path] = (),
    prices: Prices | None = None,
) -> Table:
    """Return the table of some results folders.

    Args:
        folders: Results folders, or plain folders of records; none shows the claims alone.
        conditions: `key=value` each; a row is shown if it meets them all.
        columns: Names of columns and knobs, separated by commas; null leaves the choice open. Where
            the device of a row was pretended, `simulated` is shown besides.
        published: Folders of publications whose claims are shown beside our rows.
        prices: By which a million samples cost something; null leaves the cost unknown.

    Raises:
        StoreError: a folder is missing, or is no folder.
        QueryError: a condition or a column that cannot be understood.
        ScenarioError: two of the prices are for the device of one row.
    """
    names = None if columns is None else query.columns(columns)
    rows, problems, sides = _read_records(folders, prices)
    for folder in published:
        claims, unread = read_claims(folder)
        rows, problems = beside(rows, claims), problems + unread
    shown = query.where(rows, conditions)
    if names is not None and "simulated" not in names and any(row.simulated for row in shown):
        names.append("simulated")
    return Table(shown, names, problems, sides)


def read_claims(folder: Path = PUBLISHED) -> tuple[list[Row], list[Problem]]:
    """Return the rows of the publications in a folder, and the files left aside.

    Raises:
        StoreError: the folder is missing, or is no folder.
    """
    _check_folder(folder, "name a folder of publications, or `published` for those shipped")
    publications, problems = [], []
    paths = sorted(folder.glob("*.json"))
    if not paths:
        problems.append(Problem(folder, "no publication (*.json) lies in this folder"))
    for path in paths:
        try:
            publications.append(Publication.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            first = str(error).splitlines()[0]
            problems.append(Problem(path, f"not a publication: {first}"))
    return rows_of_claims(publications), problems


def _read_records(
    folders: Sequence[Path], prices: Prices | None
) -> tuple[list[Row], list[Problem], int]:
    for folder in folders:
        _check_folder(folder, "name a folder that `bench run --results` wrote to")
    stores = [Store(folder) for folder in folders]
    with _collecting_later():
        rows = rows_of((item for store in stores for item in store.runs()), prices)
    problems = [problem for store in stores for problem in store.problems]
    return rows, problems, sum(store.sides for store in stores)


@contextlib.contextmanager
def _collecting_later() -> Iterator[None]:
    # Records have no cycles, and looking for some among all that are read so far takes a quarter of
    # the time of reading ten thousand.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_folder(folder: Path, remedy: str) -> None:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise StoreError(f"{printable(folder)} {what}: {remedy}")


def write(table: Table, format: Format, out: TextIO, *, width: int | None = None) -> None:  # noqa: A002
    """Write a table to a stream.

    Args:
        table: What to write.
        format: How.
        out: Where to; a terminal gets colour with `rich`.
        width: Columns of characters for `rich`; null is the terminal's own.
    """
    match format:
        case Format.RICH:
            from bench.results.terminal import print_table

            print_table(table, out, width)
        case Format.JSON:
            out.write(to_json(table))
        case Format.MARKDOWN:
            out.write(to_markdown(table))
        case Format.CSV:
            _write_csv(table, out)


def to_json(table: Table) -> str:
    """Return one JSON document, with the rows under `rows`."""
    document = {
        "schema": TABLE_SCHEMA_VERSION,
        "rows": [
            row.model_dump(mode="json") if table.columns is None else _chosen(row, table.columns)
            for row in table.rows
        ],
        "problems": [{"path": printable(p.path), "reason": p.reason} for p in table.problems],
        "sides_left_out": table.sides,
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def _write_csv(table: Table, out: TextIO) -> None:
    # Not by way of `frame`: importing pandas takes longer than reading thousands of records.
    names = _names(table)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([query.cell(row, name) for name in names] for row in table.rows)


def frame(table: Table) -> pd.DataFrame:
    """Return the rows as a data frame of plain objects, for notebooks; unknown is None."""
    import pandas as pd

    names = _names(table)
    # Left to itself pandas would turn a count beside an unknown into a float.
    return pd.DataFrame(
        [[query.cell(row, name) for name in names] for row in table.rows],
        columns=list(names),
        dtype=object,
    )


def _names(table: Table) -> Sequence[str]:
    return query.COLUMNS if table.columns is None else table.columns


def to_markdown(table: Table) -> str:
    """Return a Markdown table, with the columns that hold nothing left out."""
    shown: dict[str, list[str]]
    if table.columns is not None:
        shown = {
            escape_markdown(name): [escape_markdown(plain(query.cell(r, name))) for r in table.rows]
            for name in table.columns
        }
    else:
        texts = {head: [text(row) for row in table.rows] for head, text in _MARKDOWN.items()}
        shown = {head: column for head, column in texts.items() if any(column) or head in _ALWAYS}
    lines = [
        "| " + " | ".join(shown) + " |",
        "|" + " --- |" * len(shown),
        *("| " + " | ".join(cells) + " |" for cells in zip(*shown.values(), strict=True)),
    ]
    cited = [] if table.columns is not None else list(citations(table.rows))
    lines += [""] * bool(cited or table.left_out)
    lines += [f"- {what}: {escape_markdown(source)}" for what, source in cited]
    lines += [f"- {escape_markdown(line)}" for line in table.left_out]
    return "\n".join(lines) + "\n"


def _chosen(row: Row, names: Sequence[str]) -> dict[str, Any]:
    return {name: query.cell(row, name) for name in names}


_ALWAYS = {"scenario", "case", "backend", "samples/s [95 % interval]", "verdict"}
_MARKDOWN: dict[str, Callable[[Row], str]] = {
    "scenario": lambda row: escape_markdown(row.scenario),
    "case": lambda row: escape_markdown(row.case),
    "backend": lambda row: escape_markdown(row.backend),
    "device": lambda row: escape_markdown(row.device or ""),
    "processes": ranks,
    "samples/s [95 % interval]": throughput,
    "speed-up [95 % interval]": speedup,
    "scaling [95 % interval]": scaling,
    "offload [95 % interval]": offload,
    "loss gap (nats)": loss_gap,
    "step ms": step,
    "compile s (cold / warm)": compiling,
    "peak memory": memory,
    "loader wait": loader_wait,
    "MFU": utilisation,
    "J/sample": energy,
    "cost/M": cost,
    "verdict": standing,
    "why": lambda row: escape_markdown("; ".join([*remarks(row), *filter(None, [row.source])])),
}
