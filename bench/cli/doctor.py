"""`bench doctor`: backends, versions, and what would spoil a measurement here."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from bench.backends.base import Probe
from bench.backends.registry import Prober, names
from bench.run import checkup, environment


def examine(backends: Sequence[str]) -> None:
    """Print what this machine has.

    Raises:
        BackendError: a backend that was named does not exist.
    """
    console = Console(highlight=False, soft_wrap=True)
    prober = Prober()
    probes = [prober.probe(name) for name in backends or names()]
    console.print("[bold]Backends[/]")
    for probe in probes:
        _backend(probe, console)
    console.print("\n[bold]Software[/]")
    for name, version in environment.versions().items():
        console.print(f"  {name} {escape(version)}")
    console.print("\n[bold]This machine[/]")
    for finding in checkup.examine():
        mark = "[yellow]![/]" if finding.remedy else " "
        console.print(f" {mark} {finding.subject}: {escape(finding.fact)}")
        if finding.remedy:
            console.print(f"     {escape(finding.remedy)}")


def _backend(probe: Probe, console: Console) -> None:
    flavour = f" ({escape(probe.flavour)})" if probe.flavour else ""
    if not probe.available:
        reason = escape(probe.reason or "")
        console.print(f"  {probe.backend}{flavour}: [red]not available[/]: {reason}")
        if probe.remedy:
            console.print(f"     {escape(probe.remedy)}")
        return
    console.print(
        f"  {probe.backend}: [green]available[/]: "
        f"{probe.device_count} x {escape(probe.device_model or 'unknown device')}{flavour}"
    )
    for warning in probe.warnings:
        console.print(f"   [yellow]![/] {escape(warning)}")
