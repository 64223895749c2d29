"""`bench list` and `--dry-run`: what there is to run, and where."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.backends.registry import Prober, names
from bench.run.plan import Planned
from bench.scenarios import compose

_FOR_PROGRAMS = ("fingerprint", "launches", "nodes")
"""Columns that a person at a terminal does not need."""
_PROSE = ("description", "reason", "remedy", "device")
_LEAST_PROSE = 20
"""Unit: columns of characters."""
"""Columns that may take several lines."""


def scenarios(format: str) -> None:  # noqa: A002
    """Print the shipped scenarios."""
    rows = [{"name": item.name, "description": item.description} for item in compose.shipped()]
    _write(rows, format)


def backends(format: str) -> None:  # noqa: A002
    """Print every registered backend and whether it can be used here."""
    prober = Prober()
    rows = []
    for name in names():
        probe = prober.probe(name)
        rows.append(
            {
                "name": name,
                "available": probe.available,
                "flavour": probe.flavour,
                "device": probe.device_model,
                "reason": probe.reason,
                "remedy": probe.remedy,
            }
        )
    _write(rows, format)


def cases(planned: Sequence[Planned], format: str) -> None:  # noqa: A002
    """Print the cases of a plan, with what stands in their way."""
    rows = []
    for item in planned:
        obstacle = item.probe.reason if not item.probe.available else None
        refusal = "; ".join(str(refusal) for refusal in item.refusals) or None
        rows.append(
            {
                "scenario": item.case.scenario,
                "case": item.case.case,
                "on": item.case.on,
                "backend": item.backend,
                "position": item.position,
                "processes": item.case.knobs.processes,
                "nodes": item.case.knobs.nodes,
                "launches": item.case.measure.launches,
                "fingerprint": item.keys.fingerprint,
                "outcome": "unavailable" if obstacle else "unsupported" if refusal else None,
                "reason": obstacle or refusal,
            }
        )
    _write(rows, format)


def _write(rows: Sequence[dict[str, Any]], format: str) -> None:  # noqa: A002
    if format == "json":
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        sys.stdout.write(orjson.dumps({"schema": 1, "rows": rows}, option=options).decode())
        return
    if format == "csv":
        writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    if format == "markdown":
        sys.stdout.write(_markdown(rows))
        return
    shown = [
        key
        for key in (rows[0] if rows else {})
        if key not in _FOR_PROGRAMS and any(row[key] is not None for row in rows)
    ]
    grid = Table(box=None, header_style="bold", pad_edge=False)
    console = Console()
    names = [key for key in shown if key not in _PROSE]
    taken = sum(max(len(key), *(len(_text(row[key])) for row in rows)) + 2 for key in names)
    # Names are kept whole while that leaves prose enough to be read.
    whole = console.width - taken >= _LEAST_PROSE
    for key in shown:
        grid.add_column(key, no_wrap=whole and key not in _PROSE, overflow="fold")
    for row in rows:
        grid.add_row(*(_text(row[key]) for key in shown))
    console.print(grid)


def _markdown(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    for row in rows:
        cells = ("" if v is None else str(v).replace("|", r"\|") for v in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(str(value))
