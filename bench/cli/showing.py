"""`bench show`: a scenario with its cases, or a record as a page (`record_page`)."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from bench.cli.record_page import knob_grid, write_page
from bench.results.prices import Prices
from bench.results.store import Store, StoreError
from bench.scenarios import compose, expand
from bench.scenarios.errors import ScenarioError


def show(reference: str, results: Path, prices: Prices | None = None) -> None:
    """Print whichever of the two the reference names.

    Args:
        reference: A scenario's name or file, or a record's path or id.
        results: Folder that records are looked for in.
        prices: By which a record's million samples cost something.

    Raises:
        ScenarioError, StoreError: it names neither, or two prices are for the record's device.
    """
    console = Console(highlight=False)
    if compose.is_scenario(reference):
        if prices is not None:
            raise ScenarioError(
                "--prices", f"{reference} is a scenario and has cost nothing yet", "leave it out"
            )
        _scenario(reference, console)
        return
    try:
        stored = Store(results).find(reference)
    except StoreError as error:
        if reference.endswith(".json"):
            raise
        names = ", ".join(item.name for item in compose.shipped())
        raise ScenarioError(
            reference, f"is neither a scenario nor a record ({error})", f"scenarios: {names}"
        ) from error
    write_page(stored, sys.stdout, prices=prices)


def _scenario(name: str, console: Console) -> None:
    scenario = compose.load(name)
    console.print(f"[bold]{escape(scenario.name)}[/]  {escape(scenario.description)}")
    measure = scenario.measure
    console.print(
        f"{measure.launches} launches, {measure.budget_s:g} s of windows per case, "
        f"{measure.windows} windows per launch"
    )
    cases = expand.expand(scenario, sweeps={}, refused=lambda _: False)
    if len(cases) > 1:
        console.print("\n[bold]Cases[/] (on a backend that refuses none)")
        for case in cases:
            on = f" on {case.on}" if case.on else ""
            remark = f": {case.remark}" if case.remark else ""
            console.print(f"  {escape(case.case)}{escape(on)}{escape(remark)}")
    console.print("\n[bold]Knobs of the first case[/]")
    console.print(knob_grid(cases[0].knobs))
