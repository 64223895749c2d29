"""Builders of the smallest valid launch and record, for every test that needs one.

Each argument is a figure that a test may want to speak about; everything else is a plain default.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from bench.results.record import (
    Check,
    CheckResult,
    Compilation,
    Device,
    Diagnostics,
    Environment,
    Keys,
    Launch,
    Outcome,
    Phase,
    Phases,
    Record,
    Verdict,
)
from bench.results.statistics import summarise
from bench.scenarios.identity import fingerprint, series_key, work_key
from bench.scenarios.schema import Case, Knobs, Measure

_ids = itertools.count(1)

MORNING = dt.datetime(2026, 11, 20, 8, 0, 0, tzinfo=dt.UTC)
PASSED = (Check(name="fence_waits", result=CheckResult.PASS, evidence="0.1 % of the window"),)


def a_launch(
    *,
    index: int = 0,
    round: int | None = None,  # noqa: A002
    session: str = "session-1",
    window_s: Sequence[Sequence[float]] = ((1.0, 1.0, 1.0),),
    samples_per_window: int = 8,
    steps_per_window: int = 1,
    compile_s: float | None = None,
    cache: str = "none",
    peak_memory_bytes: int | None = None,
    loader_wait_share: float | None = None,
    audit: Sequence[Check] = PASSED,
    **fields: Any,
) -> Launch:
    """Return a launch; `window_s` is per rank, then per window, in seconds."""
    return Launch(
        index=index,
        seed=index,
        session=session,
        round=index if round is None else round,
        started=MORNING.isoformat(),
        phases=Phases(import_s=2.0, build_s=0.5, first_step_s=1.0, warm_up_s=1.0, measure_s=3.0),
        micro_batches_per_window=steps_per_window,
        steps_per_window=steps_per_window,
        samples_per_window=samples_per_window,
        window_s=[list(times) for times in window_s],
        warm_up_steps=4,
        steady=True,
        compilation=Compilation(
            count=None if compile_s is None else 1, seconds=compile_s, cache=cache
        ),
        peak_memory_bytes=peak_memory_bytes,
        diagnostics=None
        if loader_wait_share is None
        else Diagnostics(loader_wait_share=loader_wait_share),
        audit=list(audit),
        **fields,
    )


def launches_of(*samples_per_s: float, session: str = "session-1", **fields: Any) -> list[Launch]:
    """Return one launch per round whose values are the given throughputs."""
    return [
        a_launch(index=i, session=session, window_s=[[8 / value]], samples_per_window=8, **fields)
        for i, value in enumerate(samples_per_s)
    ]


def a_case(
    case: str = "default",
    *,
    scenario: str = "quick",
    knobs: Mapping[str, Any] | None = None,
    measure: Mapping[str, Any] | None = None,
    remark: str | None = None,
) -> Case:
    """Return a resolved case with the given knobs (nested mappings) over the defaults."""
    return Case(
        scenario=scenario,
        case=case,
        remark=remark,
        knobs=Knobs.model_validate(dict(knobs or {})),
        measure=Measure.model_validate(dict(measure or {})),
    )


def a_record(
    case: Case | str = "default",
    *,
    launches: Sequence[Launch] | None = None,
    outcome: Outcome = Outcome.OK,
    verdict: Verdict = Verdict.MEASURED,
    verdict_reason: str | None = None,
    reason: str | None = None,
    phase: Phase | None = None,
    backend: str = "cpu",
    device: Device | None = Device(model="Test CPU", count=1),  # noqa: B008 - frozen
    session: str = "session-1",
    position: int = 0,
    created: dt.datetime = MORNING,
    id: str | None = None,  # noqa: A002
    versions: Mapping[str, str] | None = None,
    **fields: Any,
) -> Record:
    """Return a record whose statistics and keys follow from its launches and its case."""
    asked = a_case(case) if isinstance(case, str) else case
    ok = outcome is Outcome.OK
    kept = list(launches if launches is not None else launches_of(10.0, 11.0, 12.0) if ok else [])
    software = {"python": "3.11.9", "torch": "2.9.0"} if versions is None else dict(versions)
    series = series_key(
        asked.knobs,
        backend=backend,
        device_model=device.model if device else "unknown",
        world=asked.knobs.processes,
    )
    return Record(
        tool_version="0.1.0",
        id=id or f"{next(_ids):08d}",
        created=created.isoformat(),
        session=session,
        position=position,
        keys=Keys(
            work=work_key(asked.knobs),
            series=series,
            fingerprint=fingerprint(
                series, asked.knobs, asked.measure, versions=software, measurement=1
            ),
        ),
        requested=asked,
        backend=backend,
        device=device,
        processes=asked.knobs.processes,
        environment=Environment(versions=software, os="Linux", machine="x86_64"),
        outcome=outcome,
        phase=phase,
        reason=reason if ok else reason or f"the case ended as {outcome}",
        launches=kept,
        statistics=summarise(kept, asked.measure) if ok else None,
        verdict=verdict if ok else None,
        verdict_reason=verdict_reason,
        **fields,
    )
