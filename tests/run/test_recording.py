"""A case that is never launched is recorded with its reason, without paths of this machine."""

from __future__ import annotations

from dataclasses import replace

from bench.backends.base import Probe, Refusal
from bench.results.record import (
    Check,
    CheckResult,
    Clocks,
    Keys,
    Launch,
    Noise,
    Outcome,
    Verdict,
    Weight,
)
from bench.run import recording
from bench.run.plan import Planned
from tests.builders import a_case, a_launch


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


QUIET = Noise(co_tenant_share=0.01)
HELD = Check(name="clocks_held", result=CheckResult.PASS, evidence="3000 MHz", weight=Weight.NOISY)
THROTTLED = HELD.model_copy(update={"result": CheckResult.FAIL, "evidence": "too hot"})
LEAKS = Check(name="memory_flat", result=CheckResult.FAIL, evidence="grows")
LOADS = Check(name="loader_bound", result=CheckResult.FAIL, evidence="waits", weight=Weight.REMARK)


def launches(*audits: list[Check], noise: Noise = QUIET) -> list[Launch]:
    return [a_launch(index=i, audit=audit, noise=noise) for i, audit in enumerate(audits)]


def test_a_quiet_machine_with_held_clocks_is_measured() -> None:
    assert recording.judge(launches([HELD], [HELD])) == (Verdict.MEASURED, None)


def test_a_failed_noisy_check_makes_the_row_noisy_with_its_reason() -> None:
    assert recording.judge(launches([HELD], [THROTTLED], [HELD])) == (
        Verdict.NOISY,
        "1 of 3 launches: clocks_held: too hot",
    )


def test_what_the_noise_monitor_says_comes_first() -> None:
    loud = Noise(co_tenant_share=0.5, reasons=["other processes used 50 %"])
    assert recording.judge(launches([THROTTLED], noise=loud)) == (
        Verdict.NOISY,
        "1 of 1 launches: other processes used 50 %",
    )


def test_a_wrong_number_is_suspect_however_noisy_it_was() -> None:
    assert recording.judge(launches([THROTTLED, LEAKS])) == (
        Verdict.SUSPECT,
        "memory_flat: grows",
    )


def test_a_remark_leaves_the_number_measured() -> None:
    assert recording.judge(launches([HELD, LOADS])) == (Verdict.MEASURED, None)


def test_a_record_says_which_side_of_a_comparison_it_was() -> None:
    own = a_plan(Probe(backend="cpu", available=True))
    for planned, side in ((own, None), (replace(own, side="B"), "B")):
        assert recording.record_of(planned, "session", [a_launch()], None, {}).side == side


def test_a_launch_on_a_slower_processor_makes_the_row_noisy() -> None:
    def paced(least_us: float) -> Launch:
        (launch,) = launches([HELD])
        clocks = Clocks(source=None, calculation_us_min=least_us, calculation_us_max=200.0)
        return launch.model_copy(update={"clocks": clocks})

    assert recording.judge([paced(90.0), paced(92.0)]) == (Verdict.MEASURED, None)
    verdict, reason = recording.judge([paced(90.0), paced(92.0), paced(150.0)])
    assert verdict is Verdict.NOISY
    assert reason is not None
    assert reason.startswith("1 of 3 launches: a fixed calculation took at least 150 us")
