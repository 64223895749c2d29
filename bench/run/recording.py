"""Turning what a case left (launches, or an end without figures) into its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from bench._version import __version__
from bench.results import statistics
from bench.results.checks import disturbance, failed, slowed_throughout, told
from bench.results.record import (
    Device,
    Health,
    Launch,
    Outcome,
    Phase,
    Precompiled,
    Record,
    Verdict,
    Weight,
)
from bench.results.store import new_id
from bench.run import environment
from bench.run.ending import End
from bench.run.plan import Planned
from bench.run.scrubbing import scrub, shareable_path
from bench.scenarios.schema import Case


def record_of(
    planned: Planned,
    session: str,
    launches: Sequence[Launch],
    end: End | None,
    variables: Mapping[str, str],
    health: Health | None = None,
    precompiled: Precompiled | None = None,
) -> Record:
    """Return the record of a case.

    Args:
        planned: The case.
        session: The invocation that finishes it.
        launches: Those that gave figures, also when a later one did not.
        end: Why there is no number; null: there is one.
        variables: The environment its processes start with.
        health: What the health pass found; null: there was none.
        precompiled: What was compiled before the launches; null: nothing was.
    """
    now = datetime.now(UTC)
    probe = planned.probe
    verdict, verdict_reason = judge(launches) if end is None else (None, None)
    return Record(
        tool_version=__version__,
        id=new_id(now),
        created=now.isoformat(timespec="milliseconds"),
        session=session,
        position=planned.position,
        side=planned.side,
        keys=planned.keys,
        requested=_shareable(planned.case),
        contents=dict(planned.contents),
        backend=planned.backend,
        device=None
        if probe.device_model is None
        else Device(
            model=probe.device_model,
            count=probe.device_count,
            flavour=probe.flavour,
        ),
        flavour=probe.flavour,
        simulated=probe.simulated,
        processes=planned.case.knobs.processes,
        environment=environment.capture(variables, planned.versions),
        outcome=Outcome.OK if end is None else end.outcome,
        phase=None if end is None else end.phase,
        reason=None if end is None else end.reason,
        remedy=None if end is None else end.remedy,
        log_tail=None if end is None else end.log_tail,
        precompiled=precompiled,
        launches=list(launches),
        statistics=statistics.summarise(launches, planned.case.measure) if end is None else None,
        verdict=verdict,
        verdict_reason=verdict_reason,
        health=health,
    )


def _shareable(case: Case) -> Case:
    """Return a case whose files and folders are named so that a record may hold it."""
    groups = {}
    for name, knobs in {"accelerate": ["config"], "zero": ["config", "nvme_path"]}.items():
        group = getattr(case.knobs, name)
        paths = {knob: path for knob in knobs if (path := getattr(group, knob)) is not None}
        if paths:
            shared = {knob: shareable_path(path) for knob, path in paths.items()}
            groups[name] = group.model_copy(update=shared)
    return case.model_copy(update={"knobs": case.knobs.model_copy(update=groups)})


def judge(launches: Sequence[Launch]) -> tuple[Verdict, str | None]:
    """Return what the number of these launches is worth, and why it is worth less than `measured`.

    A failed check makes it suspect, whatever the noise; a disturbed machine makes it noisy.
    """
    wrong = failed(launches, Weight.SUSPECT)
    if wrong:
        return Verdict.SUSPECT, "; ".join(map(told, wrong))
    noisy = [reason for reason in map(disturbance, launches) if reason is not None]
    if noisy:
        return Verdict.NOISY, f"{len(noisy)} of {len(launches)} launches: {noisy[-1]}"
    slowed = slowed_throughout(launches)
    if slowed is not None:
        return Verdict.NOISY, f"{slowed[0]} of {len(launches)} launches: {slowed[1]}"
    blind = [x for x in launches if x.noise.co_tenant_share is None]
    if blind:
        return Verdict.MEASURED, (
            f"in {len(blind)} of {len(launches)} launches it is unknown whether the machine was "
            "disturbed: the windows were too short for its counters, or it shows none"
        )
    return Verdict.MEASURED, None


def refused(planned: Planned) -> End | None:
    """Return the end of a case that cannot be launched, or null if it can."""
    if not planned.probe.available:
        return End(
            outcome=Outcome.UNAVAILABLE,
            phase=Phase.PLAN,
            reason=scrub(planned.probe.reason or "the backend is not available"),
            remedy=None if planned.probe.remedy is None else scrub(planned.probe.remedy),
        )
    if planned.refusals:
        return End(
            outcome=Outcome.UNSUPPORTED,
            phase=Phase.PLAN,
            reason=scrub("; ".join(str(refusal) for refusal in planned.refusals)),
        )
    return None
