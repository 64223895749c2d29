"""`bench show`: a scenario with its cases, or a record as a page that a person understands."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from bench.audit.checks import explain
from bench.results.record import Check, CheckResult, Launch, Outcome, Record
from bench.results.rows import rows_of
from bench.results.store import Store, StoreError
from bench.results.table import Format, write
from bench.results.table import Table as Rows
from bench.scenarios import compose, expand
from bench.scenarios.errors import ScenarioError
from bench.scenarios.identity import tagged_fields
from bench.scenarios.schema import Knobs

_STYLES = {
    CheckResult.PASS: "green",
    CheckResult.FAIL: "bold red",
    CheckResult.NOT_APPLICABLE: "dim",
}


def show(reference: str, results: Path) -> None:
    """Print whichever of the two the reference names.

    Raises:
        ScenarioError, StoreError: it names neither.
    """
    console = Console(highlight=False)
    if _is_scenario(reference):
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
    write(Rows(rows_of([stored])), Format.RICH, sys.stdout)
    _record(stored.record, console)


def _is_scenario(reference: str) -> bool:
    shipped = {item.name for item in compose.shipped()}
    return reference in shipped or reference.endswith((".yaml", ".yml"))


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
    console.print(_knobs(cases[0].knobs))


def _knobs(knobs: Knobs) -> Table:
    grid = Table(box=None, show_header=False, pad_edge=False)
    for name, identity, value in tagged_fields(knobs):
        if value is not None:
            grid.add_row(f"  {name}", escape(str(value)), f"[dim]{identity.value}[/]")
    return grid


def _record(record: Record, console: Console) -> None:
    told = f"{record.id}, {record.created}, session {record.session}"
    console.print(f"\n[bold]Record[/] {escape(told)}")
    if record.outcome is not Outcome.OK:
        where = f" in phase {record.phase}" if record.phase else ""
        console.print(f"[bold red]{record.outcome}[/]{where}: {escape(record.reason or '')}")
        if record.remedy:
            console.print(f"  remedy: {escape(record.remedy)}")
        if record.log_tail:
            console.print("\n[bold]Last lines of its log[/]")
            console.print(escape(record.log_tail), style="dim")
    elif record.verdict_reason:
        console.print(f"[bold]{record.verdict}[/]: {escape(record.verdict_reason)}")
    _environment(record, console)
    for launch in record.launches:
        _launch(launch, console)
    if record.launches:
        _audit(record.launches, console)


def _environment(record: Record, console: Console) -> None:
    environment = record.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    console.print(f"\n[bold]Software[/] {escape(versions)}")
    flags = " ".join(f"{name}={value}" for name, value in environment.flags.items())
    if flags:
        console.print(f"[bold]Flags[/] {escape(flags)}")
    console.print("[bold]Knobs[/]")
    console.print(_knobs(record.requested.knobs))


def _launch(launch: Launch, console: Console) -> None:
    seconds = launch.phases.model_dump()
    phases = ", ".join(f"{k.removesuffix('_s')} {v:.2f} s" for k, v in seconds.items() if v)
    console.print(f"\n[bold]Launch {launch.index}[/] round {launch.round}, seed {launch.seed}")
    console.print(f"  {phases}")
    for rank, times in enumerate(launch.window_s):
        shown = " ".join(f"{t * 1e3:.0f}" for t in times)
        console.print(f"  rank {rank}: windows of {launch.steps_per_window} steps, ms: {shown}")
    found = launch.diagnostics
    if found is None:
        return
    parts = []
    if found.loader_wait_share is not None:
        parts.append(f"{found.loader_wait_share:.1%} of the time waiting for the loader")
    if found.device_twin_samples_per_s is not None:
        parts.append(f"{found.device_twin_samples_per_s:.4g} samples/s with batches on the device")
    if found.doubling_ratio is not None:
        parts.append(f"twice the work takes {found.doubling_ratio:.2f} times as long")
    if found.latency is not None:
        known = found.latency.model_dump(exclude_none=True)
        known.pop("steps")
        figures = ", ".join(f"{k.removesuffix('_ms')} {v:.2f} ms" for k, v in known.items())
        parts.append(f"latency over {found.latency.steps} fenced steps: {figures}")
    for text in (*parts, *found.skipped):
        console.print(f"  {escape(text)}")


def _audit(launches: list[Launch], console: Console) -> None:
    console.print("\n[bold]Audit[/]")
    named: dict[str, list[Check]] = {}
    for check in (check for launch in launches for check in launch.audit):
        named.setdefault(check.name, []).append(check)
    for name, checks in named.items():
        worst = _worst(checks)
        result = worst.result.replace("_", " ")
        missing = len(launches) - len(checks)
        partly = f" (in {len(checks)} of {len(launches)} launches)" if missing else ""
        console.print(f"  [{_STYLES[worst.result]}]{result:<15}[/]{escape(name)}{partly}")
        console.print(Padding(escape(worst.evidence), (0, 0, 0, 4)))
        console.print(Padding(escape(_explanation(name)), (0, 0, 0, 4)), style="dim")


def _explanation(name: str) -> str:
    try:
        return explain(name)
    except KeyError:
        return "This version does not know the check: another version wrote the record."


def _worst(checks: list[Check]) -> Check:
    failed = [check for check in checks if check.result is CheckResult.FAIL]
    return (failed or checks)[0]
