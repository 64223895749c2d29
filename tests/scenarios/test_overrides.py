"""`--set`: its value, its place, and the refusal to change nothing without saying so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scenarios.compose import load, with_overrides
from bench.scenarios.errors import ScenarioError
from bench.scenarios.expand import expand
from bench.scenarios.overrides import as_text, parse_overrides
from bench.scenarios.schema import Case, Knobs, Measure, Scenario
from tests.scenarios.conftest import Write


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load(name, overrides)
    return str(caught.value)


def cases_of(scenario: Scenario) -> list[Case]:
    return expand(scenario, sweeps={}, refused=lambda _: False)


# Reading


@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.integers())
    | st.from_regex(r"\A[a-z][a-z0-9_]{2,}_[0-9]+\Z")
)
def test_what_is_written_for_a_value_is_read_as_that_value(value: Any) -> None:
    (override,) = parse_overrides([f"key={as_text(value)}"])
    assert override.value == value
    assert type(override.value) is type(value)


@given(st.text(min_size=1))
def test_any_text_can_be_given_in_quotes(text: str) -> None:
    (override,) = parse_overrides([f"description={json.dumps(text)}"])
    assert override.value == text


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_overrides(["model=a=b"])[0].value == "a=b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["batch_size"],
            "--set: 'batch_size' is not of the form key=value; as in batch_size=16",
        ),
        (
            ["batch_size="],
            "--set batch_size: has no value after the =; write null for no value, or '' for an "
            "empty text",
        ),
        (["seed=1", "seed=2"], "--set seed: is given twice; remove one of the two"),
        (
            ["model=!!python/name:os.system x"],
            "--set model: line 1, column 1: the tag !!python/name:os.system is refused: only "
            "plain data is read; remove the tag",
        ),
    ],
)
def test_an_option_that_cannot_be_read_says_why(options: list[str], message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_overrides(options)
    assert str(caught.value) == message


# On a scenario


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("batch_size=32", "batch_size", 32),
        ("data.source=jpeg", "data.source", "jpeg"),
        ("data={source: cached, workers: 2}", "data.workers", 2),
        ("model_kwargs.depth=2", "model_kwargs", {"depth": 2}),
        ("model_kwargs={depth: 2, a: {b: 1}}", "model_kwargs", {"depth": 2, "a": {"b": 1}}),
        ("learning_rate=1e-4", "learning_rate", 0.0001),
        ("optimizer=null", "optimizer", "adamw"),
        ("measure.launches=7", "measure.launches", 7),
        ("measure={launches: 7, budget_s: 1}", "measure.launches", 7),
        ("description=''", "description", ""),
        ("name=other", "name", "other"),
        ("matrix.batch_size=[1, 2]", "matrix", {"batch_size": [1, 2]}),
        ("matrix={data: {workers: [1, 2]}}", "matrix", {"data.workers": [1, 2]}),
    ],
)
def test_an_override_reaches_its_key_with_its_type(
    write: Write, option: str, path: str, value: object
) -> None:
    found: Any = load(write("seed: 1"), [option])
    for part in path.split("."):
        found = getattr(found, part)
    assert found == value


def test_a_case_is_changed_by_its_name_or_its_place(write: Write) -> None:
    path = write("cases: [{case: a, set: {batch_size: 1}}, {case: b, set: {data: {workers: 1}}}]")
    cases = cases_of(load(path, ["cases[a].set.batch_size=5", "cases[1].set.data.workers=6"]))
    assert (cases[0].knobs.batch_size, cases[1].knobs.data.workers) == (5, 6)


def test_a_rung_is_changed_by_its_name() -> None:
    options = ["ladder[batch-size].set.batch_size=4", "ladder[autocast].on=baseline"]
    cases = {case.case: case for case in cases_of(load("vit-ladder", options))}
    assert cases["batch-size"].knobs.batch_size == 4
    assert cases["autocast"].on == "baseline"
    assert cases["steps-per-graph"].knobs.batch_size == 4


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("batchsize=4", "--set batchsize: unknown knob batchsize; did you mean batch_size?"),
        ("workers=4", "--set workers: unknown knob workers; did you mean data.workers?"),
        ("batch_size=many", "--set batch_size: 'many' must be a whole number"),
        ("batch_size=8.0", "--set batch_size: 8.0 must be a whole number"),
        (
            "data.source=jepg",
            "--set data.source: 'jepg' is not one of random, cached, device, jpeg, "
            "folder:PATH; did you mean jpeg?",
        ),
        (
            "measure.launchs=4",
            "--set measure.launchs: unknown knob measure.launchs; did you mean measure.launches?",
        ),
        ("schema=1", "--set schema: schema is fixed by the file; copy the file and edit it there"),
        (
            "extends=x",
            "--set extends: extends is fixed by the file; copy the file and edit it there",
        ),
        (
            "momentum=0.5",
            "quick.yaml with --set momentum: momentum has no meaning for "
            "optimizer=adamw: remove it",
        ),
        (
            "cases[fp3].set.seed=1",
            "--set cases[fp3].set.seed: no case fp3; there are fp32, amp-bf16",
        ),
        ("ladder[0].set.seed=1", "--set ladder[0].set.seed: no rung 0; the scenario has no ladder"),
        (
            "cases[fp32].set.sed=1",
            "--set cases[fp32].set.sed: unknown knob sed; did you mean seed?",
        ),
        (
            "cases[fp32].foo=1",
            "--set cases[fp32].foo: unknown key foo; choose one of case, remark, set.KNOB",
        ),
        (
            "matrix.seed=[1]",
            "quick.yaml with --set matrix.seed: choose one of matrix, ladder and "
            "cases, not matrix and cases",
        ),
    ],
)
def test_an_override_that_cannot_be_says_why(option: str, message: str) -> None:
    assert refusal("quick", option) == message


@pytest.mark.parametrize(
    ("scenario", "option", "message"),
    [
        (
            "vit-matrix",
            "precision=bf16",
            "--set precision: changes nothing: in vit-matrix.yaml every case takes it from "
            "matrix.precision; write --set 'matrix.precision=[bf16]'",
        ),
        (
            "quick",
            "precision=bf16",
            "--set precision: changes nothing: in quick.yaml every case takes it from "
            "cases[fp32].set.precision and 1 more; write --set 'cases[fp32].set.precision=bf16', "
            "and so for each",
        ),
        (
            "loader",
            "data={source: jpeg, images: 4}",
            "--set data.source: changes nothing: in loader.yaml every case takes it from "
            "cases[random-0].set.data.source and 9 more; write --set "
            "'cases[random-0].set.data.source=jpeg', and so for each",
        ),
    ],
)
def test_an_override_without_effect_is_refused_with_the_way_to_have_one(
    scenario: str, option: str, message: str
) -> None:
    assert refusal(scenario, option) == message


def test_the_way_that_is_named_works() -> None:
    cases = cases_of(load("vit-matrix", ["matrix.precision=[bf16]"]))
    assert {case.knobs.precision for case in cases} == {"bf16"}
    assert len(cases) == 3


def test_an_override_that_a_ladders_first_rung_hides_is_refused(write: Write) -> None:
    path = write("ladder: [{rung: a, set: {batch_size: 4}}, {rung: b, set: {seed: 1}}]")
    assert "every case takes it from ladder[a].set.batch_size" in refusal(path, "batch_size=8")


def test_an_override_that_some_rungs_follow_is_accepted() -> None:
    cases = cases_of(load("vit-ladder", ["batch_size=32"]))
    assert [case.knobs.batch_size for case in cases[:3]] == [32, 32, 8]


# On a stored case


def stored(name: str = "a", measure: dict[str, Any] | None = None, **knobs: Any) -> Case:
    """Return a case as a record gives it back: every value explicit."""
    case = Case(
        scenario="s",
        case=name,
        on="b",
        remark="c",
        knobs=Knobs.model_validate(knobs),
        measure=Measure.model_validate(measure or {}),
    )
    return Case.model_validate_json(case.model_dump_json(by_alias=True))


def test_a_stored_case_without_overrides_is_itself() -> None:
    case = stored(data={"source": "cached"})
    assert with_overrides(case, []) == case


@pytest.mark.parametrize(
    ("knobs", "option", "expected"),
    [
        ({}, "processes=2", {"processes": 2}),
        ({}, "task=infer", {"task": "infer"}),
        ({}, "optimizer=sgd", {"optimizer": "sgd"}),
        ({"optimizer": "sgd"}, "optimizer=adam", {"optimizer": "adam"}),
        ({"compile": "inductor"}, "compile=none", {}),
        ({"data": {"source": "cached"}}, "data.source=random", {}),
        ({"data": {"source": "cached"}}, "data.source=jpeg", {"data": {"source": "jpeg"}}),
        ({"processes": 2}, "processes=1", {}),
        ({"learning_rate": 0.5}, "batch_size=4", {"learning_rate": 0.5, "batch_size": 4}),
        ({}, "model_kwargs.depth=2", {"model_kwargs": {"depth": 2}}),
    ],
)
def test_a_stored_default_follows_the_override(
    knobs: dict[str, Any], option: str, expected: dict[str, Any]
) -> None:
    assert with_overrides(stored(**knobs), [option]).knobs == Knobs.model_validate(expected)


def test_a_stored_value_that_was_asked_for_stays() -> None:
    with pytest.raises(ScenarioError, match="learning_rate has no meaning for task=infer"):
        with_overrides(stored(learning_rate=0.5), ["task=infer"])


def test_overrides_of_a_stored_case_reach_its_protocol() -> None:
    changed = with_overrides(stored(measure={"budget_s": 3.0}), ["measure.launches=9"])
    assert (changed.measure.launches, changed.measure.budget_s) == (9, 3.0)


def test_a_name_that_tells_a_value_tells_the_new_one() -> None:
    case = stored("batch_size=8,precision=fp32", batch_size=8)
    assert with_overrides(case, ["precision=bf16"]).case == "batch_size=8,precision=bf16"
    assert with_overrides(case, ["seed=3"]).case == case.case
    assert (
        with_overrides(stored("fp32,batch_size=8"), ["batch_size=16"]).case == "fp32,batch_size=16"
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("batch_size=x", "--set batch_size: 'x' must be a whole number"),
        (
            "model=${oc.env:HOME}",
            "--set model: ${oc.env:HOME} interpolates, and here is no scenario to take a value "
            "from; write the value itself",
        ),
        ("measure.launches=0", "--set measure.launches: 0 must be greater than or equal to 1"),
        ("batchsize=4", "--set batchsize: unknown knob batchsize; did you mean batch_size?"),
        (
            "data.prefetch=4",
            "--set data.prefetch: prefetch needs a worker to prepare batches: set "
            "workers >= 1 or prefetch to null",
        ),
        (
            "momentum=0.5",
            "case a with --set momentum: momentum has no meaning for optimizer=adamw: remove it",
        ),
        (
            "matrix.batch_size=[4]",
            "--set matrix.batch_size: matrix.batch_size belongs to a "
            "scenario, not to a stored case; override the knob itself",
        ),
        (
            "name=x",
            "--set name: name belongs to a scenario, not to a stored case; override the "
            "knob itself",
        ),
    ],
)
def test_an_override_that_a_stored_case_cannot_take_says_why(option: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        with_overrides(stored(), [option])
    assert str(caught.value) == message
