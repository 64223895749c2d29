"""The `bench` command: its options, and one clear message and exit code for every user error.

Nothing heavy is imported before a command is known: `bench --help` answers at once, and no command
but a worker ever imports torch.
"""

from __future__ import annotations

import enum
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bench.results.prices import Prices

EXIT_USAGE = 2


class Format(enum.StrEnum):
    """How a table is written."""

    RICH = "rich"
    JSON = "json"
    MARKDOWN = "markdown"
    CSV = "csv"


class Listed(enum.StrEnum):
    """What `bench list` lists."""

    SCENARIOS = "scenarios"
    BACKENDS = "backends"


class Schema(enum.StrEnum):
    """Which JSON Schema `bench schema` prints."""

    SCENARIO = "scenario"
    RECORD = "record"
    PUBLICATION = "publication"
    PRICES = "prices"


app = typer.Typer(
    name="bench",
    help="How fast does this train on that accelerator, with which settings? "
    "Every number in the table is true, or says why it may not be.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RESULTS = Path("results")
_Results = Annotated[
    Path, typer.Option("--results", metavar="DIR", help="Folder that records go to.")
]
_Format = Annotated[Format, typer.Option("--format", help="How to print the table.")]
_Threshold = Annotated[
    float,
    typer.Option(
        "--threshold", metavar="PCT", min=0.01, max=50, help="Smallest change that matters to you."
    ),
]
_Prices = Annotated[
    Path | None,
    typer.Option(
        "--prices", metavar="FILE", help="YAML file of prices: shows what a million samples cost."
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        from bench import __version__

        typer.echo(f"accelbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    scenarios: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENARIO...", help="Shipped name, YAML file, or a record to repeat."
        ),
    ],
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="NAME", help="Default: the best that is available."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a knob, for example batch_size=16."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", metavar="KEY=A,B,C", help="Run every case with each value."),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", metavar="NAME|N", help="Only this case, as --dry-run lists it."),
    ] = None,
    launches: Annotated[
        int | None, typer.Option("--launches", metavar="L", help="Launches of every case.")
    ] = None,
    precision_target: Annotated[
        float | None,
        typer.Option(
            "--precision-target",
            metavar="PCT",
            help="Launch until the 95 % interval is +- PCT percent (Stein's two stages).",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", metavar="SECONDS", help="Measured time per case, over all its launches."
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", metavar="P", help="Ranks, started by this command.")
    ] = None,
    results: _Results = RESULTS,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Wall time per case.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Skip cases that have a record already; retry what failed."),
    ] = False,
    no_health: Annotated[
        bool, typer.Option("--no-health", help="Do not look whether the cases still train.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cases and run nothing.")
    ] = False,
    prices: _Prices = None,
    format: _Format = Format.RICH,  # noqa: A002
) -> None:
    """Measure scenarios and print their table; progress goes to stderr."""
    from bench.cli import running

    if launches is not None and precision_target is not None:
        raise typer.BadParameter("choose one of --launches and --precision-target")
    settings = list(set_ or [])
    for key, value in (
        ("measure.launches", launches),
        ("measure.precision_target", precision_target),
        ("measure.budget_s", budget),
        ("measure.timeout_s", timeout),
        ("processes", processes),
    ):
        if value is not None:
            settings.append(f"{key}={_number(value)}")
    if no_health:
        settings.append("measure.health=false")
    request = running.Request(
        scenarios=scenarios,
        backends=backend or [],
        settings=settings,
        sweeps=sweep or [],
        cases=case or [],
        results=results,
        resume=resume,
        prices=_read_prices(prices),
        format=format.value,
        for_our_launcher=[
            option
            for option, given in (
                ("--resume", resume),
                ("--launches", launches is not None),
                ("--precision-target", precision_target is not None),
                ("--processes", processes is not None),
                ("--timeout", timeout is not None),
            )
            if given
        ],
    )
    raise typer.Exit(running.dry_run(request) if dry_run else running.run(request))


def _number(value: float) -> str:
    # YAML reads 30 as an integer, and budgets and targets are floats.
    return repr(value)


def _read_prices(path: Path | None) -> Prices | None:
    from bench.results import prices

    return None if path is None else prices.read(path)


@app.command("list")
def list_(
    what: Annotated[Listed, typer.Argument(help="What to list.")],
    format: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.RICH,  # noqa: A002
) -> None:
    """List the shipped scenarios, or the backends and whether they can be used here."""
    from bench.cli import listing

    if what is Listed.SCENARIOS:
        listing.scenarios(format.value)
    else:
        listing.backends(format.value)


@app.command()
def show(
    reference: Annotated[
        str,
        typer.Argument(metavar="SCENARIO|RECORD", help="Scenario name or file, record file or id."),
    ],
    results: _Results = RESULTS,
    prices: _Prices = None,
) -> None:
    """Show a scenario with its cases, or a record with its audit as a page."""
    from bench.cli import showing

    showing.show(reference, results, _read_prices(prices))


@app.command()
def table(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR...]",
            help="Results folders; default: results, if it is there or nothing else is shown.",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="KEY=VALUE", help="Keep rows with this column or knob."),
    ] = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="A,B,C", help="Columns or knobs to show.")
    ] = None,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="published|DIR",
            help="Show claims of others beside ours: `published`, or a folder of publications.",
        ),
    ] = None,
    prices: _Prices = None,
    format: _Format = Format.RICH,  # noqa: A002
) -> None:
    """Print the newest record of every case as a table."""
    from bench.results import table as tables
    from bench.results.store import StoreError

    claims = [tables.PUBLISHED if name == "published" else Path(name) for name in with_ or []]
    if not folders:
        if not RESULTS.exists() and not claims:
            raise StoreError(
                f"there is no folder {RESULTS} here: `bench run quick` makes it and its first "
                "records, or name another results folder"
            )
        folders = [RESULTS] if RESULTS.exists() else []
    found = tables.read(
        folders,
        conditions=where or [],
        columns=columns,
        published=claims,
        prices=_read_prices(prices),
    )
    tables.write(found, tables.Format(format.value), sys.stdout)
    if format is Format.CSV:
        # The other formats have a place of their own for what could not be read.
        for problem in found.problems:
            typer.echo(f"left aside: {problem}", err=True)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Record (file or id), or results folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same; B is measured by A.")],
    results: _Results = RESULTS,
    threshold: _Threshold = 2.0,
    format: _Format = Format.RICH,  # noqa: A002
) -> None:
    """Compare two records, or all that two results folders share: B's throughput over A's.

    Records that were not measured in turns are compared as they are, which cannot confirm a
    regression: the machine may have changed in between. `bench ab` can.

    Exit codes: 0 nothing speaks against B, 1 B is slower, 3 it cannot be told.
    """
    from bench.cli import comparing

    raise typer.Exit(
        comparing.run(a, b, results=results, threshold_pct=threshold, format=format.value)
    )


@app.command()
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
        typer.Option("--pairs", metavar="N", min=3, max=100, help="Pairs of launches."),
    ] = 10,
    threshold: _Threshold = 2.0,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            metavar="SECONDS",
            help="Measured time per side, over all its launches. Default: as much per launch as in "
            "`bench run`.",
        ),
    ] = None,
    results: _Results = RESULTS,
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
    format: _Format = Format.RICH,  # noqa: A002
) -> None:
    """Measure two sides in turns, and tell whether B is the SAME, FASTER or SLOWER.

    The sides are two scenarios that do the same work, one under two settings, or one in two
    environments, given by their interpreters.

    Exit codes: 0 same or faster, 1 slower, 3 it cannot be told, 4 a side failed.
    """
    from bench.cli import contest

    if b is None and not (set_a or set_b or python_a or python_b or case_a or case_b):
        raise typer.BadParameter(
            "say in what B differs: name it, or use --set-b, --python-b or --case-b; to try the "
            "machine with two equal sides, name A twice"
        )
    both = [
        f"{key}={_number(value)}"
        for key, value in (("measure.timeout_s", timeout), ("measure.budget_s", budget))
        if value is not None
    ]
    both += set_ or []
    raise typer.Exit(
        contest.run(
            contest.Request(
                a=contest.SideRequest("A", a, [*both, *(set_a or [])], case_a or case, python_a),
                b=contest.SideRequest(
                    "B", a if b is None else b, [*both, *(set_b or [])], case_b or case, python_b
                ),
                backend=backend,
                pairs=pairs,
                threshold_pct=threshold,
                budget_s=budget,
                results=results,
                one_at_a_time=one_at_a_time,
                format=format.value,
            )
        )
    )


@app.command()
def doctor(
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", metavar="NAME", help="Look at this backend only."),
    ] = None,
) -> None:
    """Say what this machine has, per backend, and what would spoil a measurement here."""
    from bench.cli import doctor as doctors

    doctors.examine(backend or [])


@app.command()
def schema(
    of: Annotated[Schema, typer.Argument(help="Which document.")] = Schema.SCENARIO,
) -> None:
    """Print the JSON Schema of scenario files (for editors), records, publications or prices."""
    import orjson

    from bench.results.json_schema import (
        prices_json_schema,
        publication_json_schema,
        record_json_schema,
    )
    from bench.scenarios.export import json_schema

    exports = {
        Schema.SCENARIO: json_schema,
        Schema.RECORD: record_json_schema,
        Schema.PUBLICATION: publication_json_schema,
        Schema.PRICES: prices_json_schema,
    }
    typer.echo(orjson.dumps(exports[of](), option=orjson.OPT_INDENT_2).decode())


def main() -> None:
    """Run the command line; user errors end in one message and exit code 2."""
    try:
        app()
    except BrokenPipeError:
        # The reader of our output has gone: nothing is wrong, and nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if not _is_users(error):
            raise
        # Under torchrun every rank finds the same mistake, and one message is enough.
        if os.environ.get("RANK", "0") == "0":
            typer.echo(f"bench: {error}", err=True)
        sys.exit(EXIT_USAGE)


def _is_users(error: Exception) -> bool:
    from bench.backends.registry import BackendError
    from bench.results.matching import MatchError
    from bench.results.query import QueryError
    from bench.results.store import StoreError
    from bench.scenarios.errors import ScenarioError

    return isinstance(error, (BackendError, MatchError, QueryError, ScenarioError, StoreError))
