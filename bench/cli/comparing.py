"""`bench compare`: two records, or all that two results folders share.

Exit codes: 0 B is or looks the same or faster; 1 B is slower, by launches that took turns, or does
not learn; 3 it cannot be told, B lacks a case of A, or B only looks slower: records that were
measured one after the other confirm nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cli import comparison_page
from bench.results.compared import Comparison
from bench.results.comparison import ComparisonVerdict, Suggestion
from bench.results.matching import compare, compare_folders
from bench.results.store import Problem, Store, StoreError
from bench.results.wording import sides_left_out

EXIT_OK, EXIT_SLOWER, EXIT_INCONCLUSIVE = 0, 1, 3
_INCONCLUSIVE = {
    ComparisonVerdict.AMBIGUOUS.value,
    ComparisonVerdict.INVALID.value,
    Suggestion.CANNOT_TELL.value,
    Suggestion.LOOKS_SLOWER.value,
    Suggestion.NO_INTERVAL.value,
}


def run(a: str, b: str, *, results: Path, threshold_pct: float, format: str) -> int:  # noqa: A002
    """Compare what two references name, print it, and return the exit code.

    Args:
        a: A record's path or id, or a results folder.
        b: The same kind of thing.
        results: Where ids are looked up.
        threshold_pct: What counts as a change that matters. Unit: percent.
        format: `rich`, `json`, `markdown` or `csv`.

    Raises:
        StoreError: a record or a folder that is not there or empty, or one of each.
        MatchError: two records that must not be divided by one another.
    """
    problems: list[Problem] = []
    folders = [Path(name).is_dir() for name in (a, b)]
    if all(folders):
        ours, theirs = Store(Path(a)), Store(Path(b))
        mine, other = list(ours.runs()), list(theirs.runs())
        problems = ours.problems + theirs.problems
        for name, records in ((a, mine), (b, other)):
            if not records:
                raise StoreError(f"{name} holds no record: name a folder that `bench run` wrote to")
        for line in sides_left_out(ours.sides + theirs.sides):
            print(line, file=sys.stderr)
        rows = compare_folders(mine, other, threshold_pct)
    elif any(folders):
        raise StoreError(f"{a} and {b}: name two records, or two results folders")
    else:
        store = Store(results)
        rows = [compare(store.find(a), store.find(b), threshold_pct)]
    comparison_page.write(rows, problems, format, sys.stdout)
    if format == "csv":
        # The other formats have a place of their own for what could not be read.
        for problem in problems:
            print(f"left aside: {problem}", file=sys.stderr)
    return exit_code(rows)


def exit_code(rows: Sequence[Comparison]) -> int:
    """Return what the comparisons come to, by the worst of them."""
    verdicts = {row.verdict for row in rows} - {None}
    if ComparisonVerdict.SLOWER.value in verdicts or any(row.breaks_training for row in rows):
        return EXIT_SLOWER
    missing = any(row.b is None for row in rows)
    return EXIT_INCONCLUSIVE if missing or not verdicts or verdicts & _INCONCLUSIVE else EXIT_OK
