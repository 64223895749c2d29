"""From scenarios and backends to the list of cases to run, each with what stands in its way.

Nothing is started here but the probe children of the backends that are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from bench.backends import registry
from bench.backends.base import Probe, Refusal
from bench.results.record import MEASUREMENT_VERSION, Keys
from bench.run import environment
from bench.scenarios import expand, identity
from bench.scenarios.errors import ScenarioError, did_you_mean
from bench.scenarios.schema import Case, Knobs, Scenario


@dataclass(frozen=True)
class Planned:
    """One case on one backend, before anything ran."""

    case: Case
    backend: str
    probe: Probe
    position: int
    """Place among the cases of its scenario on its backend, from 0."""
    keys: Keys
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def runnable(self) -> bool:
        """Whether there is anything to launch."""
        return self.probe.available and not self.refusals

    @property
    def title(self) -> str:
        """The case in one phrase, for progress and messages."""
        return f"{self.case.scenario} / {self.case.case} on {self.backend}"


def plan(
    work: Sequence[Scenario | Case],
    probes: Sequence[Probe],
    sweeps: Mapping[str, Sequence[JsonValue]],
) -> list[Planned]:
    """Expand every scenario on every backend, in the order given.

    Args:
        work: Scenarios to expand, or resolved cases to repeat.
        probes: The backends, as their probes found them.
        sweeps: Knobs to vary on top.

    Raises:
        ScenarioError: a case is not valid, or names data that is not there.
    """
    versions = environment.versions()
    planned = []
    for item in work:
        for probe in probes:
            for position, case in enumerate(_cases(item, probe, sweeps)):
                _check_data(case)
                planned.append(_planned(case, probe, position, versions))
    return planned


def choose(planned: Sequence[Planned], wanted: Sequence[str]) -> list[Planned]:
    """Return the cases of these names or numbers (from 0, as --dry-run lists them), in plan order.

    Raises:
        ScenarioError: one of them is no case of the plan.
    """
    if not wanted:
        return list(planned)
    names = list(dict.fromkeys(p.case.case for p in planned))
    for name in wanted:
        if name not in names and name not in {str(p.position) for p in planned}:
            raise ScenarioError(
                f"--case {name}",
                "there is no such case",
                did_you_mean(name, names),
            )
    return [p for p in planned if p.case.case in wanted or str(p.position) in wanted]


def _cases(
    item: Scenario | Case, probe: Probe, sweeps: Mapping[str, Sequence[JsonValue]]
) -> list[Case]:
    if isinstance(item, Case):
        if sweeps:
            raise ScenarioError("--sweep", "a record is one case and cannot be swept", "use --set")
        return [item]
    return expand.expand(item, sweeps=sweeps, refused=lambda knobs: bool(_refusals(knobs, probe)))


def _refusals(knobs: Knobs, probe: Probe) -> list[Refusal]:
    # An unavailable backend may not even have an adapter that can be asked.
    return registry.get(probe.backend).refusals(knobs, probe) if probe.available else []


def _planned(case: Case, probe: Probe, position: int, versions: Mapping[str, str]) -> Planned:
    series = identity.series_key(
        case.knobs,
        backend=probe.backend,
        device_model=probe.device_model or "unknown",
        world=case.knobs.processes,
    )
    return Planned(
        case=case,
        backend=probe.backend,
        probe=probe,
        position=position,
        refusals=_refusals(case.knobs, probe),
        keys=Keys(
            work=identity.work_key(case.knobs),
            series=series,
            fingerprint=identity.fingerprint(
                series,
                case.knobs,
                case.measure,
                versions=versions,
                measurement=MEASUREMENT_VERSION,
            ),
        ),
    )


def _check_data(case: Case) -> None:
    kind, _, path = case.knobs.data.source.partition(":")
    if kind == "folder" and not Path(path).expanduser().is_dir():
        raise ScenarioError(
            f"{case.scenario} / {case.case}: data.source",
            f"there is no folder {path}",
            "name a folder that holds one sub-folder of images per class",
        )
