"""A case that is never launched is recorded with its reason, without paths of this machine."""

from __future__ import annotations

from bench.backends.base import Probe, Refusal
from bench.results.record import Keys, Outcome
from bench.run import recording
from bench.run.plan import Planned
from tests.builders import a_case


def a_plan(probe: Probe, refusals: list[Refusal] | None = None) -> Planned:
    return Planned(
        case=a_case(),
        backend=probe.backend,
        probe=probe,
        position=0,
        keys=Keys(work="work", series="series", fingerprint="print"),
        refusals=refusals or [],
    )


def test_an_absent_backend_tells_why_and_what_to_do_without_folders() -> None:
    probe = Probe(
        backend="xla",
        available=False,
        reason="its probe ended with exit code 1: ImportError: /srv/envs/lib/libpjrt.so: not found",
        remedy="repair /srv/envs/lib/libpjrt.so",
    )
    end = recording.refused(a_plan(probe))
    assert end is not None
    assert (end.outcome, end.reason, end.remedy) == (
        Outcome.UNAVAILABLE,
        "its probe ended with exit code 1: ImportError: <path>/libpjrt.so: not found",
        "repair <path>/libpjrt.so",
    )


def test_a_refusal_is_told_without_folders() -> None:
    refusals = [
        Refusal(knob="compile", value="inductor", reason="no compiler at /srv/bin/g++"),
        Refusal(knob="threads", value=9, reason="there are 2"),
    ]
    end = recording.refused(a_plan(Probe(backend="cpu", available=True), refusals))
    assert end is not None
    assert (end.outcome, end.reason) == (
        Outcome.UNSUPPORTED,
        "compile=inductor: no compiler at <path>/g++; threads=9: there are 2",
    )


def test_a_case_with_nothing_in_its_way_is_not_refused() -> None:
    assert recording.refused(a_plan(Probe(backend="cpu", available=True))) is None
