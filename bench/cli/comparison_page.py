"""How comparisons are printed: as a page for one, as a table for several, and for programs.

What can be said is decided in `results`; this module gives it words and an order. Text from records
is shown as text, never as markup.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import orjson
from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.results.compared import Comparison, Side
from bench.results.comparison import ComparisonVerdict, Suggestion
from bench.results.store import Problem, printable
from bench.results.wording import escape_markdown, figure, marked, one_line, ratio

SCHEMA_VERSION = 1
SEQUENTIAL = "sequential: cannot confirm a regression"
_STYLES = {
    ComparisonVerdict.SAME.value: "green",
    ComparisonVerdict.FASTER.value: "bold green",
    ComparisonVerdict.SLOWER.value: "bold red",
    ComparisonVerdict.INVALID.value: "bold red",
    Suggestion.LOOKS_SLOWER.value: "yellow",
    Suggestion.CANNOT_TELL.value: "yellow",
    ComparisonVerdict.AMBIGUOUS.value: "yellow",
}
_HEADS = ("scenario", "case", "backend", "A samples/s", "B samples/s", "B / A", "verdict")
_MANY_PCT = 10


def write(
    rows: Sequence[Comparison],
    problems: Sequence[Problem],
    format: str,  # noqa: A002
    out: TextIO,
    *,
    width: int | None = None,
) -> None:
    """Write comparisons to a stream.

    Args:
        rows: One gets a page of its own with `rich`.
        problems: Files that were left aside.
        format: `rich`, `json`, `markdown` or `csv`.
        out: Where to; colour only where it is a terminal.
        width: Columns of characters for `rich`; null is the terminal's own.
    """
    match format:
        case "json":
            out.write(_json(rows, problems))
        case "csv":
            _csv(rows, out)
        case "markdown":
            out.write(_markdown(rows, problems))
        case _:
            console = Console(file=out, width=width, highlight=False, markup=False, emoji=False)
            lines = _page(rows[0]) if len(rows) == 1 else _lines_of_several(rows)
            if len(rows) > 1:
                console.print(_grid(rows))
            for line in lines:
                console.print(line)
            for problem in problems:
                console.print(Text(one_line(f"left aside: {problem}"), style="yellow"))


def _ratio(row: Comparison) -> str:
    return "" if row.ratio is None else ratio(row.ratio, row.ratio_low, row.ratio_high)


def _page(row: Comparison) -> Iterator[RenderableType]:
    for name, side in (("A", row.a), ("B", row.b)):
        if side is not None:
            yield Text(f"{name}  {_side(side)}")
            yield _indented(Text(side.record, style="dim", overflow="fold"), 3)
    for difference in row.differences:
        yield _indented(Text(f"differs in {one_line(difference)}", style="dim"), 3)
    if not row.differences and row.a and row.b:
        yield _indented(Text("nothing differs that the records know", style="dim"), 3)
    yield Text()
    if row.design == "sequential":
        yield Text(SEQUENTIAL, style="yellow")
    yield Text.assemble(
        _verdict(row),
        f": {_ratio(row)} in samples/s, B / A" if row.ratio is not None else "",
    )
    yield _indented(Text(one_line(row.reason)), 2)
    for line in _rests_on(row):
        yield _indented(Text(line, style="dim"), 2)


def _indented(text: Text, columns: int) -> Padding:
    return Padding(text, (0, 0, 0, columns), expand=False)


def _verdict(row: Comparison) -> Text:
    verdict = row.verdict or "not compared"
    subject = "B " if verdict.startswith("looks") else "B is " if _of_b(verdict) else ""
    return Text(f"{subject}{verdict}{_broken(row)}", style=_style(row))


def _broken(row: Comparison) -> str:
    return "; B does not learn" if row.breaks_training else ""


def _style(row: Comparison) -> str:
    return "bold red" if row.breaks_training else _STYLES.get(row.verdict or "", "")


def _of_b(verdict: str) -> bool:
    return verdict in {"FASTER", "SLOWER"}


def _rests_on(row: Comparison) -> Iterator[str]:
    """Yield what the interval is made of, and what it could have seen."""
    if row.ratio_low is not None and row.degrees_of_freedom is not None:
        over = f"{len(row.pairs)} pairs of launches" if row.pairs else "the launches of either side"
        p = "" if row.p is None else f", p = {row.p:.2g}"
        yield (
            f"{100 * row.confidence:.0f} % interval over {over} ({row.method}, "
            f"{row.degrees_of_freedom:.3g} degrees of freedom{p}); "
            f"threshold {row.threshold_pct:g} %"
        )
    if row.detectable_pct is not None:
        change = f"{row.detectable_pct:.{0 if row.detectable_pct >= _MANY_PCT else 1}f}"
        yield (
            f"the smallest change that this comparison could have seen: {change} % "
            "(in 80 % of runs with this scatter)"
        )
    if row.disturbed:
        yield f"something else used the machine in {row.disturbed} pairs (*)"
    if row.pairs:
        ratios = (f"{pair.ratio:.3f}{'*' if pair.disturbed else ''}" for pair in row.pairs)
        yield f"B / A by pair: {' '.join(ratios)}"


def _side(side: Side) -> str:
    launches = f"{side.launches} launch{'' if side.launches == 1 else 'es'}"
    figures = "" if side.samples_per_s is None else f"{figure(side.samples_per_s)} samples/s, "
    return one_line(
        f"{side.scenario} / {side.case} on {side.backend}: {figures}{_standing(side)}, {launches}"
        f"{_training(side)}"
    )


def _training(side: Side) -> str:
    if side.learns is not None:
        return ", learns" if side.learns else ", does not learn"
    return "" if side.learns_reason is None else f", may not learn: {side.learns_reason}"


def _standing(side: Side) -> str:
    return marked(side.verdict or side.outcome, simulated=side.simulated)


def _grid(rows: Sequence[Comparison]) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for head in _HEADS:
        grid.add_column(head, overflow="fold")
    for row in rows:
        if row.a and row.b:
            *cells, verdict = _cells(row)
            grid.add_row(*(Text(cell or "-") for cell in cells), Text(verdict, style=_style(row)))
    return grid


def _cells(row: Comparison) -> tuple[str, ...]:
    side = row.a or row.b
    if side is None:
        raise ValueError("a comparison of no records has no cells")
    noisy = "~" if row.noisy and row.ratio is not None else ""
    return (
        one_line(side.scenario),
        one_line(side.case),
        one_line(side.backend),
        _samples(row.a),
        _samples(row.b),
        f"{noisy}{_ratio(row)}",
        _several_verdict(row),
    )


def _several_verdict(row: Comparison) -> str:
    if row.a is None or row.b is None:
        return row.reason
    return f"{row.verdict or 'not compared'}{_broken(row)}"


def _samples(side: Side | None) -> str:
    if side is None:
        return ""
    told = figure(side.samples_per_s) if side.samples_per_s is not None else side.outcome
    return marked(told, simulated=side.simulated)


def _lines_of_several(rows: Sequence[Comparison]) -> Iterator[RenderableType]:
    designs = {row.design for row in rows}
    if "sequential" in designs:
        yield Text(f"{SEQUENTIAL}; `bench ab` can", style="yellow")
    if any(row.noisy for row in rows):
        yield Text("~: a ratio of which one side is noisy", style="dim")
    for row in rows:
        if row.a and row.b:
            told = [row.reason] if row.design is None or row.design == "paired" else []
            told += [f"differs in {difference}" for difference in row.differences]
            for text in told:
                yield Text(f"{one_line(row.a.case)}: {one_line(text)}", style="dim")
    for name, sides in (
        ("A", [row.a for row in rows if row.a and not row.b]),
        ("B", [row.b for row in rows if row.b and not row.a]),
    ):
        if sides:
            cases = ", ".join(f"{x.scenario} / {x.case} on {x.backend}" for x in sides if x)
            yield Text(one_line(f"only in {name}: {cases}"))


def _json(rows: Sequence[Comparison], problems: Sequence[Problem]) -> str:
    document = {
        "schema": SCHEMA_VERSION,
        "rows": [row.model_dump(mode="json") for row in rows],
        "problems": [{"path": printable(p.path), "reason": p.reason} for p in problems],
    }
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def _csv(rows: Sequence[Comparison], out: TextIO) -> None:
    plain = [name for name in Comparison.model_fields if name not in {"a", "b", "pairs"}]
    sides = [(name, field) for name in ("a", "b") for field in Side.model_fields]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*plain, *(f"{name}_{field}" for name, field in sides), "pair_ratios"])
    for row in rows:
        found: list[Any] = [_plain(getattr(row, name)) for name in plain]
        for name, field in sides:
            side: Side | None = getattr(row, name)
            found.append("" if side is None else _plain(getattr(side, field)))
        writer.writerow([*found, " ".join(str(pair.ratio) for pair in row.pairs)])


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, list):
        return one_line("; ".join(value))
    return one_line(value) if isinstance(value, str) else value


def _markdown(rows: Sequence[Comparison], problems: Sequence[Problem]) -> str:
    lines = ["| " + " | ".join((*_HEADS, "why")) + " |", "|" + " --- |" * (len(_HEADS) + 1)]
    for row in rows:
        cells = (*_cells(row), "; ".join([row.reason, *row.differences]))
        lines.append("| " + " | ".join(escape_markdown(cell) for cell in cells) + " |")
    if any(row.design == "sequential" for row in rows):
        lines += ["", f"{SEQUENTIAL[0].upper()}{SEQUENTIAL[1:]}."]
    lines += [""] * bool(problems)
    lines += [f"Left aside: {escape_markdown(str(problem))}" for problem in problems]
    return "\n".join(lines) + "\n"
