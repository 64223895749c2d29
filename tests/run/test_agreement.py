"""In what the plans of two nodes differ, in the words that both of them print."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.results.record import Outcome
from bench.run.agreement import difference, hello
from bench.run.meeting import Meeting
from bench.run.messages import Hello
from bench.run.plan import Planned
from tests.run.plans import PROBE, two_ranks

PLACE = Meeting(2, "10.0.0.1", 29500)


def says(*planned: Planned, nodes: int = 2) -> Hello:
    return hello(replace(PLACE, nodes=nodes), planned)


def test_equal_plans_have_none() -> None:
    assert difference(says(two_ranks()), says(two_ranks())) is None


def test_software_is_named_before_what_follows_from_it() -> None:
    other = replace(two_ranks(fingerprint="h"), versions={"torch": "2.10.0"})
    found = difference(says(two_ranks()), says(other))
    assert found == "torch 2.9.0 on the first node, 2.10.0 there"
    missing = replace(two_ranks(), versions={})
    found = difference(says(two_ranks()), says(missing))
    assert found == "torch 2.9.0 on the first node, none there"
    newer = says(two_ranks()).model_copy(update={"version": "99"})
    assert "99 there" in (difference(says(two_ranks()), newer) or "")


def test_another_number_of_nodes() -> None:
    found = difference(says(two_ranks()), says(two_ranks(fingerprint="h"), nodes=3))
    assert found == "--nodes 2 on the first node, --nodes 3 there"


def test_a_case_that_only_one_of_them_has() -> None:
    here, there = [two_ranks(), two_ranks("more", 1)], [two_ranks(), two_ranks("others", 1)]
    assert difference(says(*here), says(here[0])) == "the case quick / more on cpu is missing there"
    assert difference(says(here[0]), says(*there)) == (
        "the case quick / others on cpu is missing on the first node"
    )
    assert difference(says(*here), says(*reversed(here))) == (
        "the cases stand in another order there than quick / default on cpu, quick / more on cpu"
    )


def test_devices_are_named_where_they_differ() -> None:
    probe = PROBE.model_copy(update={"device_model": "Toy Two"})
    other = replace(two_ranks(fingerprint="h", batch_size=7), probe=probe)
    found = difference(says(two_ranks()), says(other))
    told = "differs: the device is Toy One on the first node, Toy Two there"
    assert found == f"the case quick / default on cpu {told}"
    # Each case has a device of its own: a command may be for several backends.
    second = replace(two_ranks("more", 1), probe=probe, keys=other.keys)
    found = difference(says(two_ranks(), two_ranks("more", 1)), says(two_ranks(), second))
    assert found == f"the case quick / more on cpu {told}"


def test_a_knob_and_a_protocol_are_named_with_both_values() -> None:
    found = difference(
        says(two_ranks(batch_size=4)), says(two_ranks(fingerprint="h", batch_size=8))
    )
    assert found == (
        "the case quick / default on cpu differs: batch_size is 4 on the first node, 8 there"
    )
    planned = two_ranks(fingerprint="h")
    measure = planned.case.measure.model_copy(update={"windows": 99})
    longer = replace(planned, case=planned.case.model_copy(update={"measure": measure}))
    assert f"measure.windows is {planned.case.measure.windows} on the first node, 99 there" in (
        difference(says(two_ranks()), says(longer)) or ""
    )


def test_a_flag_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    here = says(two_ranks())
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert difference(here, says(two_ranks(fingerprint="h"))) == (
        "the case quick / default on cpu differs: OMP_WAIT_POLICY is not set on the first node, "
        "ACTIVE there"
    )


def test_a_file_of_the_users_own_is_named(tmp_path: Path) -> None:
    config = tmp_path / "zero.json"
    words: dict[str, Any] = {"engine": "deepspeed", "zero": {"stage": 2, "config": str(config)}}
    here, there = (
        replace(two_ranks(fingerprint=digest, **words), contents={"zero.config": digest})
        for digest in ("3f", "a7")
    )
    # As it was read for the plan: it need not be there any more.
    assert difference(says(here), says(there)) == (
        "the case quick / default on cpu differs: what zero.config names is 3f on the first node, "
        "a7 there"
    )
    here, there = (replace(two_ranks(fingerprint=d), own_code={"model": d}) for d in ("3f", "a7"))
    assert "what model names is 3f on the first" in (difference(says(here), says(there)) or "")


def test_two_places_of_one_file_are_no_difference_to_name() -> None:
    def own(n: int) -> dict[str, Any]:
        return {"engine": "accelerate", "accelerate": {"config": f"{n}.yaml"}}

    here, there = (
        replace(
            two_ranks(fingerprint=f"{n}", threads=n, **own(n)),
            contents={"accelerate.config": "3f"},
        )
        for n in (1, 2)
    )
    assert difference(says(here), says(there)) == (
        "the case quick / default on cpu differs: threads is 1 on the first node, 2 there"
    )


def test_what_one_of_them_cannot_run_is_no_difference() -> None:
    """It has a row of its own, and that node may not even know the case's fingerprint."""
    other = says(two_ranks(fingerprint="h"))
    (case,) = other.cases
    cannot = case.model_copy(update={"outcome": Outcome.UNSUPPORTED, "reason": "no compiler"})
    assert difference(says(two_ranks()), other.model_copy(update={"cases": [cannot]})) is None
