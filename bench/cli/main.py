"""The `bench` command: its options, and one clear message and exit code for every user error.

Nothing heavy is imported before a command is known: `bench --help` answers at once, and no command
but a worker ever imports torch.
"""

from __future__ import annotations

import enum
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import comparison_commands
from bench.cli.options import RESULTS, Format, Results, TableFormat
from bench.run.exits import EXIT_INTERRUPTED, EXIT_USAGE

if TYPE_CHECKING:
    from bench.results.prices import Prices

EXIT_FAULT = 70


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
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes",
            metavar="N",
            min=1,
            help="Spread the ranks over N machines: start this command on each of them.",
        ),
    ] = None,
    rdzv_endpoint: Annotated[
        str | None,
        typer.Option(
            "--rdzv-endpoint",
            metavar="HOST:PORT",
            help="Where the nodes meet: the first one, which records, and a free port of it.",
        ),
    ] = None,
    node_rank: Annotated[
        int | None,
        typer.Option(
            "--node-rank",
            metavar="R",
            help="Number of this node, from 0; default: the machine with that address is the "
            "first, and the others are taken as they come.",
        ),
    ] = None,
    join_timeout: Annotated[
        float | None,
        typer.Option(
            "--join-timeout",
            metavar="S",
            min=0.0,
            help="Wait so long for other nodes; default: 300.",
        ),
    ] = None,
    results: Results = RESULTS,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Wall time per case.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Skip cases that have a record already; retry what failed."),
    ] = False,
    precompile: Annotated[
        bool,
        typer.Option(
            "--precompile",
            help="Compile all cases first, several at a time, so that every launch starts warm.",
        ),
    ] = False,
    no_health: Annotated[
        bool, typer.Option("--no-health", help="Do not look whether the cases still train.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cases and run nothing.")
    ] = False,
    prices: _Prices = None,
    format: TableFormat = Format.RICH,  # noqa: A002
) -> None:
    """Measure scenarios and print their table; progress goes to stderr."""
    from bench.cli import running
    from bench.cli.joining import Together
    from bench.scenarios.overrides import keys_given

    if launches is not None and precision_target is not None:
        raise typer.BadParameter("choose one of --launches and --precision-target")
    if nodes is None and (rdzv_endpoint, node_rank, join_timeout) != (None, None, None):
        raise typer.BadParameter(
            "--rdzv-endpoint, --node-rank and --join-timeout go with --nodes N"
        )
    settings = list(set_ or [])
    if nodes is not None and "nodes" not in keys_given(settings):
        settings.append(f"nodes={nodes}")
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
        precompile=precompile,
        prices=_read_prices(prices),
        format=format.value,
        together=None if nodes is None else Together(nodes, node_rank, rdzv_endpoint, join_timeout),
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
    results: Results = RESULTS,
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
    format: TableFormat = Format.RICH,  # noqa: A002
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
        # The other formats have a place of their own for what is no row.
        for line in found.left_out:
            typer.echo(line, err=True)


app.command()(comparison_commands.compare)
app.command()(comparison_commands.ab)


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
    """Run the command line; user errors end in one message and exit code 2.

    Left to themselves, Ctrl-C and a fault of ours end with 1, which says that B is slower.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(EXIT_INTERRUPTED))
    try:
        _main()
    except Exception as error:
        traceback.print_exception(error)
        sys.exit(EXIT_FAULT)


def _main() -> None:
    try:
        app()
    except BrokenPipeError:
        # The reader of our output has gone: nothing is wrong, and nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if not _is_users(error):
            raise
        from bench.backends.placed import placed

        told = placed()
        rank = 0 if told is None else told.world.rank
        if rank:
            # Most mistakes meet all ranks, and a launcher may end them all once one has: rank 0
            # must have spoken before. A rank that is still there afterwards is alone with its own.
            from bench.run.inplace import GRACE_S

            time.sleep(GRACE_S)
        said_by = f"rank {rank}: " if rank else ""
        typer.echo(f"bench: {said_by}{error}", err=True)
        sys.exit(EXIT_USAGE)


def _is_users(error: Exception) -> bool:
    from bench.backends.peaks import PeaksError
    from bench.backends.registry import BackendError
    from bench.backends.temporary import TemporaryError
    from bench.results.matching import MatchError
    from bench.results.query import QueryError
    from bench.results.store import StoreError
    from bench.scenarios.errors import ScenarioError

    users = (
        BackendError,
        MatchError,
        PeaksError,
        QueryError,
        ScenarioError,
        StoreError,
        TemporaryError,
    )
    return isinstance(error, users)
