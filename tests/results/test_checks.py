"""Every check of a record's audit once: the worst that it found in any launch."""

from __future__ import annotations

from bench.results.checks import disturbance, failed, judged, slowed_throughout
from bench.results.record import Check, CheckResult, Clocks, Launch, Noise, Weight
from tests.builders import a_launch

PASS, FAIL, NA = CheckResult.PASS, CheckResult.FAIL, CheckResult.NOT_APPLICABLE


def a_check(result: CheckResult, evidence: str = "figures", **fields: object) -> Check:
    return Check(**{"name": "one", "result": result, "evidence": evidence} | fields)  # type: ignore[arg-type]


def test_a_failure_in_any_launch_counts_with_the_figures_of_those_that_failed() -> None:
    audits = [a_check(PASS), a_check(FAIL, "9 %"), a_check(FAIL, "9 %"), a_check(FAIL, "8 %")]
    (found,) = judged([a_launch(index=i, audit=[check]) for i, check in enumerate(audits)])
    assert (found.result, found.evidence) == (FAIL, ("9 %", "8 %"))
    assert (found.found_in, found.launches) == (3, 4)
    assert found.where == "in 3 of 4 launches"


def test_a_check_that_only_one_launch_could_make_has_passed_there() -> None:
    launches = [a_launch(audit=[a_check(PASS)]), a_launch(index=1, audit=[a_check(NA, "skipped")])]
    (found,) = judged(launches)
    assert (found.result, found.evidence, found.where) == (PASS, ("figures",), "in 1 of 2 launches")


def test_what_holds_in_all_launches_names_none() -> None:
    (found,) = judged([a_launch(audit=[a_check(PASS)]), a_launch(index=1, audit=[a_check(PASS)])])
    assert found.where == ""


def test_the_order_is_that_of_the_audit() -> None:
    names = ["b", "a", "c"]
    launch = a_launch(audit=[a_check(PASS, name=name) for name in names])
    assert [check.name for check in judged([launch])] == names
    assert judged([a_launch(audit=[])]) == []


def test_failures_are_told_apart_by_their_weight() -> None:
    audit = [a_check(FAIL, name=weight.value, weight=weight) for weight in Weight]
    launch = a_launch(audit=[*audit, a_check(PASS, name="fine")])
    for weight in Weight:
        (found,) = failed([launch], weight)
        assert (found.name, found.weight) == (weight.value, weight)


def test_a_launch_is_disturbed_by_others_or_by_what_held_its_clock_back() -> None:
    held = a_check(FAIL, "12 % below", name="clocks_held", weight=Weight.NOISY)
    busy = Noise(reasons=["others used 50 %", "and the hypervisor"])
    assert disturbance(a_launch(audit=[held])) == "clocks_held: 12 % below"
    assert disturbance(a_launch(audit=[held], noise=busy)) == "others used 50 %"
    remark = a_check(FAIL, weight=Weight.REMARK)
    assert disturbance(a_launch(audit=[remark, a_check(PASS, weight=Weight.NOISY)])) is None


def paced(*least_us: float, in_turns: bool = False) -> list[Launch]:
    clocks = [
        Clocks(source=None, calculation_us_min=took, calculation_us_max=2 * took)
        for took in least_us
    ]
    return [a_launch(index=i, clocks=x, in_turns=in_turns) for i, x in enumerate(clocks)]


def test_a_launch_that_was_slow_all_the_time_shows_beside_the_others() -> None:
    found = slowed_throughout(paced(90.0, 91.0, 150.0))
    assert found is not None
    count, text = found
    assert count == 1
    assert text.startswith("a fixed calculation took at least 150 us, and 90 us in another launch")


def test_launches_of_one_pace_and_those_in_turns_are_left_alone() -> None:
    assert slowed_throughout(paced(90.0, 98.0)) is None
    assert slowed_throughout(paced(90.0)) is None
    assert slowed_throughout([a_launch()]) is None
    assert slowed_throughout(paced(90.0, 150.0, in_turns=True)) is None
