"""Turning what a case left (launches, or an end without figures) into its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from bench._version import __version__
from bench.results import statistics
from bench.results.record import (
    CheckResult,
    Device,
    Health,
    Launch,
    Outcome,
    Phase,
    Record,
    Verdict,
    Weight,
)
from bench.results.store import new_id
from bench.run import environment
from bench.run.ending import End
from bench.run.plan import Planned
from bench.run.scrubbing import scrub


def record_of(
    planned: Planned,
    session: str,
    launches: Sequence[Launch],
    end: End | None,
    variables: Mapping[str, str],
    health: Health | None = None,
) -> Record:
    """Return the record of a case.

    Args:
        planned: The case.
        session: The invocation that finishes it.
        launches: Those that gave figures, also when a later one did not.
        end: Why there is no number; null: there is one.
        variables: The environment its processes start with.
        health: What the health pass found; null: there was none.
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
        keys=planned.keys,
        requested=planned.case,
        backend=planned.backend,
        device=None
        if probe.device_model is None
        else Device(model=probe.device_model, count=probe.device_count, flavour=probe.flavour),
        processes=planned.case.knobs.processes,
        environment=environment.capture(variables, planned.versions),
        outcome=Outcome.OK if end is None else end.outcome,
        phase=None if end is None else end.phase,
        reason=None if end is None else end.reason,
        remedy=None if end is None else end.remedy,
        log_tail=None if end is None else end.log_tail,
        launches=list(launches),
        statistics=statistics.summarise(launches, planned.case.measure) if end is None else None,
        verdict=verdict,
        verdict_reason=verdict_reason,
        health=health,
    )


def judge(launches: Sequence[Launch]) -> tuple[Verdict, str | None]:
    """Return what the number of these launches is worth, and why it is worth less than `measured`.

    A failed check makes it suspect, whatever the noise; a disturbed machine makes it noisy.
    """
    failed = {
        check.name: f"{check.name}: {check.evidence}"
        for launch in launches
        for check in launch.audit
        if check.result is CheckResult.FAIL and check.weight is Weight.SUSPECT
    }
    if failed:
        return Verdict.SUSPECT, "; ".join(failed.values())
    noisy = [reason for reason in map(_disturbance, launches) if reason is not None]
    if noisy:
        return Verdict.NOISY, f"{len(noisy)} of {len(launches)} launches: {noisy[-1]}"
    blind = [x for x in launches if x.noise.co_tenant_share is None]
    if blind:
        return Verdict.MEASURED, (
            f"in {len(blind)} of {len(launches)} launches it is unknown whether the machine was "
            "disturbed: the windows were too short for its counters, or it shows none"
        )
    return Verdict.MEASURED, None


def _disturbance(launch: Launch) -> str | None:
    """Return what disturbed a launch most plainly; null: nothing did."""
    if launch.noise.reasons:
        return launch.noise.reasons[0]
    for check in launch.audit:
        if check.result is CheckResult.FAIL and check.weight is Weight.NOISY:
            return f"{check.name}: {check.evidence}"
    return None


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
