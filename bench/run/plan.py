"""From scenarios and backends to the list of cases to run, each with what stands in its way.

Nothing is started here but the probe children of the backends that are asked for.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from bench.backends import drives, families, peaks, registry, users_files
from bench.backends.base import Probe, Refusal
from bench.results.record import MEASUREMENT_VERSION, Keys
from bench.run import environment, pythons, users_own
from bench.run.pythons import Python
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
    interpreter: str = sys.executable
    """The Python that its launches run in."""
    versions: Mapping[str, str] | None = None
    """Of the software that this Python finds; null: as the parent process finds it."""
    side: Literal["A", "B"] | None = None
    """`A` or `B`, where two are held against each other."""
    contents: Mapping[str, str] = field(default_factory=dict)
    """Digests of what the user's files say, by the knob that names each, and a named drive as a
    record may hold it: what stands in the keys in place of paths."""
    own_code: Mapping[str, str] = field(default_factory=dict)
    """Digest of the file that the user's own model is in, under `model`; empty for a timm model."""

    @property
    def runnable(self) -> bool:
        """Whether there is anything to launch."""
        return self.probe.available and not self.refusals

    @property
    def has_health_pass(self) -> bool:
        """Whether it is to be found out that the case trains."""
        return self.case.measure.health and self.case.knobs.task == "train"

    @property
    def title(self) -> str:
        """The case in one phrase, for progress and messages."""
        side = "" if self.side is None else f"{self.side}: "
        where = f"{'simulated ' if self.probe.simulated else ''}{self.backend}"
        return f"{side}{self.case.scenario} / {self.case.case} on {where}"


def plan(
    work: Sequence[Scenario | Case],
    probes: Sequence[Probe],
    sweeps: Mapping[str, Sequence[JsonValue]],
    python: Python | None = None,
) -> list[Planned]:
    """Expand every scenario on every backend, in the order given.

    Args:
        work: Scenarios to expand, or resolved cases to repeat.
        probes: The backends, as their probes found them.
        sweeps: Knobs to vary on top.
        python: The environment to run in; null is this process's own.

    Raises:
        ScenarioError: a case is not valid, or names data that is not there.
        PeaksError: the user's own table of peaks is none.
    """
    python = python or pythons.own()
    # A user's table that is wrong must not be found out when everything has been measured.
    peaks.load(peaks.users())
    planned: dict[tuple[str, str, str], Planned] = {}
    positions: Counter[tuple[str, str]] = Counter()
    for item in work:
        for probe in probes:
            for case in _cases(item, probe, sweeps):
                users_own.check(case)
                # Cases of one scenario keep counting over several arguments: one of them is first.
                place = (case.scenario, probe.backend)
                found = _planned(case, probe, positions[place], python)
                key = (found.keys.fingerprint, case.scenario, case.case)
                if key not in planned:
                    planned[key] = found
                    positions[place] += 1
    return list(planned.values())


def for_one_launch(planned: Planned) -> Planned:
    """Return the case as one launch with its share of the budget, under its own fingerprint."""
    measure = planned.case.measure
    alone = measure.model_copy(
        update={
            "launches": 1,
            "precision_target": None,
            "budget_s": measure.budget_s / measure.launches,
        }
    )
    return replanned(planned, planned.case.model_copy(update={"measure": alone}))


def replanned(planned: Planned, case: Case) -> Planned:
    """Return another case in the place of a planned one, under its own keys and refusals."""
    versions = environment.versions() if planned.versions is None else planned.versions
    python = Python(planned.interpreter, versions)
    # As they were read for the plan: a file that changes meanwhile is another setting.
    named = {*users_files.named(case.knobs), *users_own.drive(case.knobs)}
    contents = {knob: told for knob, told in planned.contents.items() if knob in named}
    return _planned(case, planned.probe, planned.position, python, contents)


def choose(
    planned: Sequence[Planned], wanted: Sequence[str], option: str = "--case"
) -> list[Planned]:
    """Return the cases of these names or numbers (from 0, as --dry-run lists them), in plan order.

    Args:
        planned: What there is to choose from.
        wanted: Names or numbers; none: all.
        option: What named them, for messages.

    Raises:
        ScenarioError: one of them is no case of the plan.
    """
    if not wanted:
        return list(planned)
    names = list(dict.fromkeys(p.case.case for p in planned))
    for name in wanted:
        if name not in names and name not in {str(p.position) for p in planned}:
            raise ScenarioError(
                f"{option} {name}",
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
    if not probe.available:
        return []
    found = families.refusals(registry.get(probe.backend), knobs, probe)
    drive = knobs.zero.nvme_path
    # Of several nodes one may lack it: that is a row, as a missing package is.
    if drive is not None and (reason := drives.unusable(Path(drive).expanduser())) is not None:
        reason = f"{reason}: name one on a drive that this user may write to"
        found.append(Refusal(knob="zero.nvme_path", value=drive, reason=reason))
    return found


def _variables(knobs: Knobs, probe: Probe) -> dict[str, str]:
    """Return the environment in which a case is launched, but for what finds its modules."""
    if not probe.available:
        return dict(os.environ)
    return dict(os.environ) | registry.get(probe.backend).environment(knobs, probe)


def _planned(
    case: Case,
    probe: Probe,
    position: int,
    python: Python,
    contents: Mapping[str, str] | None = None,
) -> Planned:
    if contents is None:
        contents = users_files.digests(case.knobs) | users_own.drive(case.knobs)
    own_code = users_own.code(case.knobs.model, python.path)
    series = identity.series_key(
        case.knobs,
        backend=probe.backend,
        device_model=probe.device_model or "unknown",
        world=case.knobs.processes,
        contents=contents,
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
                versions={**python.versions, **own_code},
                measurement=MEASUREMENT_VERSION,
                flags=environment.acting(_variables(case.knobs, probe)),
            ),
        ),
        interpreter=python.path,
        versions=python.versions,
        contents=contents,
        own_code=own_code,
    )
