"""What the nodes of a run say of their plans, and in what two of these differ."""

from __future__ import annotations

import json
from collections.abc import Sequence

from bench._version import __version__
from bench.run import environment as environments
from bench.run import launching, recording
from bench.run.meeting import Meeting
from bench.run.messages import Hello, Seen
from bench.run.plan import Planned
from bench.scenarios.identity import tagged_fields


def hello(meeting: Meeting, planned: Sequence[Planned]) -> Hello:
    """Return what a node says of itself and of its plan."""
    cases = []
    for case in planned:
        end = recording.refused(case)
        cases.append(
            Seen(
                scenario=case.case.scenario,
                case=case.case.case,
                backend=case.backend,
                position=case.position,
                fingerprint=case.keys.fingerprint,
                outcome=None if end is None else end.outcome,
                reason=None if end is None else end.reason,
                details=_details(case),
            )
        )
    return Hello(
        version=__version__,
        node=meeting.node,
        nodes=meeting.nodes,
        cases=cases,
        software=_software(planned),
    )


def difference(first: Hello, other: Hello) -> str | None:
    """Return in what the plans of two nodes differ; null: in nothing."""
    if first.version != other.version:
        return f"accelbench {first.version} on the first node, {other.version} there"
    for name in sorted({*first.software, *other.software}):
        here, there = first.software.get(name), other.software.get(name)
        if here != there:
            return f"{name} {here or 'is missing'} on the first node, {there or 'none'} there"
    if first.nodes != other.nodes:
        return f"--nodes {first.nodes} on the first node, --nodes {other.nodes} there"
    ours, theirs = ([_title(case) for case in plan.cases] for plan in (first, other))
    if ours != theirs:
        return _missing_case(ours, theirs)
    for one, two in zip(first.cases, other.cases, strict=True):
        # A node without the device cannot know its fingerprint: that is a row, and no mistake.
        known = one.outcome is None and two.outcome is None
        if known and one.fingerprint != two.fingerprint:
            return f"the case {_title(one)} differs{_detail(one, two)}"
    return None


def place_of(case: Seen) -> tuple[str, str, int]:
    """Return what a case is found by, on every node."""
    return case.scenario, case.backend, case.position


def _missing_case(here: Sequence[str], there: Sequence[str]) -> str:
    for cases, others, where in ((here, there, "there"), (there, here, "on the first node")):
        for case in cases:
            if case not in others:
                return f"the case {case} is missing {where}"
    return f"the cases stand in another order there than {', '.join(here)}"


def _detail(one: Seen, two: Seen) -> str:
    for name in {**one.details, **two.details}:
        here, there = one.details.get(name), two.details.get(name)
        if here != there:
            return f": {name} is {here or 'not set'} on the first node, {there or 'not set'} there"
    return ""


def _details(planned: Planned) -> dict[str, str]:
    knobs, measure = planned.case.knobs, planned.case.measure
    # First, since much follows from it.
    found = {"the device": planned.probe.device_model or "unknown"}
    found |= {
        name: json.dumps(value)
        for fields in (tagged_fields(knobs), tagged_fields(measure, "measure."))
        for name, _, value in fields
        if value is not None and name not in planned.contents
    }
    named = {**planned.own_code, **planned.contents}
    found |= {f"what {name} names": told for name, told in named.items()}
    if planned.probe.available:
        found |= environments.acting(launching.environment_of(planned))
    return found


def _software(planned: Sequence[Planned]) -> dict[str, str]:
    told = planned[0].versions if planned else None
    return dict(environments.versions() if told is None else told)


def _title(case: Seen) -> str:
    return f"{case.scenario} / {case.case} on {case.backend}"
