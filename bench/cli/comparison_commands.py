"""The two commands that hold one side against another, `bench compare` and `bench ab`.

Only their options are here, and nothing heavy is imported before one of them is called.
"""

from __future__ import annotations

import math
from typing import Annotated

import typer

from bench.cli.options import RESULTS, Format, Results, TableFormat

PAIRS = 10
"""The two smallest and the two largest ratios are trimmed, and six are left."""
THRESHOLD_PCT = 2.0


def _positive(value: float | None) -> float | None:
    # A range lets through what is not a number, which nothing is below.
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value} is not a positive, finite number")
    return value


_Threshold = Annotated[
    float,
    typer.Option(
        "--threshold",
        metavar="PCT",
        min=0.01,
        max=50,
        callback=_positive,
        help="Smallest change that matters to you.",
    ),
]


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Record (file or id), or results folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same; B is measured by A.")],
    results: Results = RESULTS,
    threshold: _Threshold = THRESHOLD_PCT,
    format: TableFormat = Format.RICH,  # noqa: A002
) -> None:
    """Compare two records, or all that two results folders share: B's throughput over A's.

    Records that were not measured in turns are compared as they are, which cannot confirm a
    regression: the machine may have changed in between. `bench ab` can.

    Exit codes: 0 B is or looks the same or faster, 1 it is slower or does not learn, 2 usage, 3 it
    cannot be told, or B lacks a case of A.
    """
    from bench.cli import comparing

    raise typer.Exit(
        comparing.run(a, b, results=results, threshold_pct=threshold, format=format.value)
    )


def ab(
    a: Annotated[str, typer.Argument(metavar="A", help="Shipped scenario, YAML file, or record.")],
    b: Annotated[
        str | None, typer.Argument(metavar="[B]", help="The same; default: A, with other settings.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a knob on both sides."),
    ] = None,
    set_a: Annotated[
        list[str] | None, typer.Option("--set-a", metavar="KEY=VALUE", help="Set a knob of A.")
    ] = None,
    set_b: Annotated[
        list[str] | None, typer.Option("--set-b", metavar="KEY=VALUE", help="Set a knob of B.")
    ] = None,
    python_a: Annotated[
        str | None,
        typer.Option("--python-a", metavar="PATH", help="Run A with this environment's python."),
    ] = None,
    python_b: Annotated[
        str | None,
        typer.Option("--python-b", metavar="PATH", help="Run B with this environment's python."),
    ] = None,
    case: Annotated[
        str | None, typer.Option("--case", metavar="NAME|N", help="The case, on both sides.")
    ] = None,
    case_a: Annotated[
        str | None, typer.Option("--case-a", metavar="NAME|N", help="The case of A.")
    ] = None,
    case_b: Annotated[
        str | None, typer.Option("--case-b", metavar="NAME|N", help="The case of B.")
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option("--backend", metavar="NAME", help="Default: the best that is available."),
    ] = None,
    pairs: Annotated[
        int,
        typer.Option(
            "--pairs", metavar="N", min=4, max=100, help="Pairs of launches, an even number."
        ),
    ] = PAIRS,
    threshold: _Threshold = THRESHOLD_PCT,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            metavar="SECONDS",
            callback=_positive,
            help="Measured time per side, over all its launches. Default: as much per launch as in "
            "`bench run`.",
        ),
    ] = None,
    results: Results = RESULTS,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Wall time per side.")
    ] = None,
    one_at_a_time: Annotated[
        bool,
        typer.Option(
            "--one-at-a-time",
            help="Never have both sides in memory: one launch after the other, which takes more "
            "pairs for the same answer.",
        ),
    ] = False,
    no_health: Annotated[
        bool, typer.Option("--no-health", help="Do not look whether the sides still train.")
    ] = False,
    format: TableFormat = Format.RICH,  # noqa: A002
) -> None:
    """Measure two sides in turns, and tell whether B is the SAME, FASTER or SLOWER.

    The sides are two scenarios that do the same work, one under two settings, or one in two
    environments, given by their interpreters.

    Exit codes: 0 same or faster, 1 slower or not learning, 2 usage, 3 it cannot be told, 4 a side
    failed or is refused by the device, 130 interrupted.
    """
    from bench.cli import contest

    if b is None and not (set_a or set_b or python_a or python_b or case_a or case_b):
        raise typer.BadParameter(
            "say in what B differs: name it, or use --set-b, --python-b or --case-b; to try the "
            "machine with two equal sides, name A twice"
        )
    both = set_ or []
    option_a = "--case" if case_a is None else "--case-a"
    option_b = "--case" if case_b is None else "--case-b"
    raise typer.Exit(
        contest.run(
            contest.Request(
                a=contest.SideRequest(
                    "A", a, [*both, *(set_a or [])], case_a or case, option_a, python_a
                ),
                b=contest.SideRequest(
                    "B", b or a, [*both, *(set_b or [])], case_b or case, option_b, python_b
                ),
                backend=backend,
                pairs=pairs,
                threshold_pct=threshold,
                budget_s=budget,
                timeout_s=timeout,
                health=not no_health,
                results=results,
                one_at_a_time=one_at_a_time,
                format=format.value,
            )
        )
    )
