"""From a scenario to its cases: their number, order, names, and what each rung stands on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scenarios.compose import load
from bench.scenarios.errors import ScenarioError
from bench.scenarios.expand import expand, parse_sweep, parse_sweeps
from bench.scenarios.schema import Case, Knobs, Scenario
from tests.scenarios.conftest import Write

AXES: dict[str, st.SearchStrategy[Any]] = {
    "batch_size": st.integers(1, 64),
    "precision": st.sampled_from(["fp32", "amp-bf16", "bf16", "bf16-env"]),
    "channels_last": st.booleans(),
    "data.workers": st.integers(0, 8),
    "seed": st.integers(0, 100),
}
matrices = st.fixed_dictionaries(
    {}, optional={k: st.lists(v, min_size=1, max_size=4, unique=True) for k, v in AXES.items()}
)


def scenario(**content: Any) -> Scenario:
    return Scenario.model_validate({"schema": 1, "name": "test", **content})


def nothing(_: Knobs) -> bool:
    return False


def cases_of(
    made: Scenario, refused: Callable[[Knobs], bool] = nothing, **sweeps: list[Any]
) -> list[Case]:
    return expand(made, sweeps=sweeps, refused=refused)


def refusal(made: Scenario, **sweeps: list[Any]) -> str:
    with pytest.raises(ScenarioError) as caught:
        cases_of(made, **sweeps)
    return str(caught.value)


def value_of(case: Case, knob: str) -> Any:
    value: Any = case.knobs
    for part in knob.split("."):
        value = getattr(value, part)
    return value


# Matrix, cases, and neither


@given(matrices)
def test_a_matrix_is_the_cross_product_with_the_last_axis_fastest(matrix: dict[str, Any]) -> None:
    cases = cases_of(scenario(matrix=matrix))
    assert len(cases) == math.prod(len(values) for values in matrix.values())
    assert len({case.case for case in cases}) == len(cases)
    for index, case in enumerate(cases):
        rest = index
        for knob, values in reversed(matrix.items()):
            rest, at = divmod(rest, len(values))
            assert value_of(case, knob) == values[at]


@given(matrices, matrices)
def test_sweeps_cross_every_case_of_a_matrix(matrix: dict[str, Any], swept: dict[str, Any]) -> None:
    sweeps = {knob: values for knob, values in swept.items() if knob not in matrix}
    cases = expand(scenario(matrix=matrix), sweeps=sweeps, refused=nothing)
    assert len(cases) == math.prod(len(v) for v in [*matrix.values(), *sweeps.values()])


def test_a_case_of_a_matrix_is_named_by_what_varies() -> None:
    cases = cases_of(scenario(seed=3, matrix={"batch_size": [8, 4], "data.workers": [1]}))
    assert [case.case for case in cases] == [
        "batch_size=8,data.workers=1",
        "batch_size=4,data.workers=1",
    ]
    assert {case.knobs.seed for case in cases} == {3}


def test_values_in_a_name_are_written_as_in_the_file() -> None:
    cases = cases_of(scenario(matrix={"channels_last": [True], "threads": [None]}))
    assert cases[0].case == "channels_last=true,threads=null"


def test_named_cases_keep_their_order_names_and_remarks() -> None:
    entries = [
        {"case": "b", "set": {"batch_size": 2}, "remark": "why"},
        {"case": "a", "set": {"data": {"workers": 3}}},
    ]
    cases = cases_of(scenario(batch_size=5, cases=entries))
    assert [(c.case, c.remark, c.on) for c in cases] == [("b", "why", None), ("a", None, None)]
    assert [(c.knobs.batch_size, c.knobs.data.workers) for c in cases] == [(2, 0), (5, 3)]


def test_a_scenario_without_any_of_the_three_is_one_case() -> None:
    (case,) = cases_of(scenario(batch_size=3, measure={"launches": 5}))
    assert (case.scenario, case.case, case.knobs.batch_size) == ("test", "default", 3)
    assert case.measure.launches == 5


def test_a_swept_case_says_so_in_its_name() -> None:
    assert [c.case for c in cases_of(scenario(), batch_size=[1, 2])] == [
        "batch_size=1",
        "batch_size=2",
    ]
    assert [c.case for c in cases_of(scenario(cases=[{"case": "a"}]), seed=[1, 2])] == [
        "a,seed=1",
        "a,seed=2",
    ]


def test_a_case_changes_what_a_default_depends_on() -> None:
    made = scenario(
        data={"source": "cached"},
        cases=[
            {"case": "infer", "set": {"task": "infer"}},
            {"case": "sgd", "set": {"optimizer": "sgd"}},
            {"case": "two", "set": {"processes": 2}},
            {"case": "random", "set": {"data.source": "random"}},
        ],
    )
    infer, sgd, two, random = (case.knobs for case in cases_of(made))
    assert infer.optimizer is None
    assert (sgd.optimizer, sgd.momentum) == ("sgd", 0.9)
    assert two.engine == "ddp"
    assert (random.data.source, random.data.pool) == ("random", None)


# Ladders


def ladder(*rungs: dict[str, Any], **knobs: Any) -> Scenario:
    return scenario(ladder=list(rungs), **knobs)


STUDY = ladder(
    {"rung": "baseline"},
    {"rung": "workers", "set": {"data.workers": 1}},
    {"rung": "autocast", "set": {"precision": "amp-bf16"}},
    {"rung": "env", "on": "workers", "set": {"precision": "bf16-env"}},
    {"rung": "graph", "on": "env", "set": {"loader.batches_per_execution": 10}},
    {"rung": "small", "set": {"batch_size": 2}},
    batch_size=16,
)


def test_a_rung_adds_to_the_one_it_stands_on() -> None:
    cases = cases_of(STUDY)
    assert [(c.case, c.on) for c in cases] == [
        ("baseline", None),
        ("workers", "baseline"),
        ("autocast", "workers"),
        ("env", "workers"),
        ("graph", "env"),
        ("small", "graph"),
    ]
    last = cases[-1].knobs
    assert (last.batch_size, last.data.workers, last.precision) == (2, 1, "bf16-env")
    assert last.loader.batches_per_execution == 10


def test_a_refused_rung_is_a_row_and_is_never_built_upon() -> None:
    cases = cases_of(
        STUDY, lambda k: k.precision == "bf16-env" or k.loader.batches_per_execution > 1
    )
    assert [(c.case, c.on) for c in cases] == [
        ("baseline", None),
        ("workers", "baseline"),
        ("autocast", "workers"),
        ("env", "workers"),
        ("graph", "workers"),
        ("small", "autocast"),
    ]
    graph, small = cases[4].knobs, cases[5].knobs
    assert (graph.precision, graph.loader.batches_per_execution) == ("fp32", 10)
    assert (small.precision, small.loader.batches_per_execution) == ("amp-bf16", 1)


def test_when_every_rung_is_refused_each_stands_on_the_scenario() -> None:
    cases = cases_of(STUDY, lambda _: True)
    assert {case.on for case in cases} == {None}
    assert [c.knobs.data.workers for c in cases] == [0, 1, 0, 0, 0, 0]


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_a_rung_stands_on_the_last_one_that_is_not_refused(refusals: list[bool]) -> None:
    made = ladder(*({"rung": str(i), "set": {"seed": i}} for i in range(len(refusals))))
    for index, case in enumerate(cases_of(made, lambda knobs: refusals[knobs.seed])):
        standing = [str(i) for i in range(index) if not refusals[i]]
        assert case.on == (standing[-1] if standing else None)


def test_a_ladder_is_climbed_once_for_each_combination_of_sweeps() -> None:
    made = ladder({"rung": "a"}, {"rung": "b", "set": {"precision": "bf16"}})
    cases = cases_of(made, batch_size=[1, 2], seed=[5, 6])
    assert [(c.case, c.on) for c in cases[:3]] == [
        ("a,batch_size=1,seed=5", None),
        ("b,batch_size=1,seed=5", "a,batch_size=1,seed=5"),
        ("a,batch_size=1,seed=6", None),
    ]
    assert len(cases) == 8


def test_refusals_are_asked_for_each_sweep() -> None:
    made = ladder({"rung": "a", "set": {"precision": "bf16"}}, {"rung": "b"})
    cases = cases_of(made, lambda knobs: knobs.batch_size == 1, batch_size=[1, 2])
    assert [c.on for c in cases] == [None, None, None, "a,batch_size=2"]


# Mistakes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"cases": [{"case": "a"}, {"case": "a"}]},
            "scenario test: cases[1].case: a is there twice; remove one",
        ),
        (
            {"ladder": [{"rung": "a"}, {"rung": "a"}]},
            "scenario test: ladder[1].rung: a is there twice; remove one",
        ),
        (
            {"matrix": {"batch_size": [4, 8, 4]}},
            "scenario test: matrix.batch_size[2]: batch_size=4 is there twice; remove one",
        ),
        (
            {"matrix": {"model_kwargs": [{}], "model_kwargs.depth": [1]}},
            "scenario test: matrix.model_kwargs: matrix.model_kwargs.depth sets it too",
        ),
        (
            {"ladder": [{"rung": "base"}, {"rung": "b", "on": "bas"}]},
            "scenario test: ladder[1].on: no rung is called 'bas'; did you mean base?",
        ),
        (
            {"ladder": [{"rung": "a", "on": "b"}, {"rung": "b"}]},
            "scenario test: ladder[0].on: 'b' does not stand above it; move it down",
        ),
        (
            {"ladder": [{"rung": "a", "on": "a"}]},
            "scenario test: ladder[0].on: 'a' does not stand above it; move it down",
        ),
        (
            {"ladder": [{"rung": "a"}, {"rung": "b", "set": {"data": {"workers": -1}}}]},
            "scenario test: ladder[1].set.data.workers: -1 must be greater than or equal to 0",
        ),
        (
            {"cases": [{"case": "a", "set": {"engine": "plain", "processes": 2}}]},
            "scenario test: cases[0]: engine=plain drives one process, not 2: set engine=ddp or "
            "processes=1",
        ),
        (
            {"matrix": {"task": ["train", "infer"], "momentum": [0.5]}, "optimizer": "sgd"},
            "scenario test: case task=infer,momentum=0.5: optimizer has no meaning for task=infer: "
            "remove it or set it to null",
        ),
    ],
)
def test_a_mistake_names_the_place_it_was_written(content: dict[str, Any], message: str) -> None:
    assert refusal(scenario(**content)) == message


def test_a_loaded_scenario_is_called_by_its_file(write: Write) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(write("ladder: [{rung: a}, {rung: b, set: {batch_size: x}}]"))
    assert str(caught.value).endswith(
        "mine.yaml: ladder[1].set.batch_size: 'x' must be a whole number"
    )


def test_a_value_of_the_scenario_that_no_case_can_use_is_called_by_its_own_place() -> None:
    made = scenario(optimizer="sgd", momentum=0.5, cases=[{"case": "a", "set": {"seed": 1}}])
    assert cases_of(made)[0].knobs.momentum == 0.5
    assert refusal(made, optimizer=["adam"]).endswith(
        "momentum has no meaning for optimizer=adam: remove it"
    )


# Sweeps


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ({"matrix": {"batch_size": [1]}}, "matrix.batch_size"),
        (
            {"cases": [{"case": "a"}, {"case": "b", "set": {"batch_size": 1}}]},
            "cases[b].set.batch_size",
        ),
        ({"ladder": [{"rung": "a", "set": {"batch_size": 1}}]}, "ladder[a].set.batch_size"),
    ],
)
def test_a_sweep_of_what_the_scenario_varies_is_refused(
    content: dict[str, Any], where: str
) -> None:
    assert refusal(scenario(**content), batch_size=[2, 3]) == (
        f"--sweep batch_size: the scenario varies it already: {where}; change it there"
    )


def test_a_sweep_of_a_knob_that_another_follows_is_refused(write: Write) -> None:
    made = load(write("batch_size: 6\nimage_size: ${batch_size}"))
    assert "is resolved once, while the cases vary batch_size" in refusal(made, batch_size=[1, 2])


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        ({"batch_size": [4, 4]}, "--sweep batch_size[1]: batch_size=4 is there twice; remove one"),
        ({"batch_size": [0]}, "--sweep batch_size: 0 must be greater than or equal to 1"),
        (
            {"batch_size": []},
            "--sweep batch_size: has no values; write them with commas: key=a,b,c",
        ),
        ({"batchsize": [1]}, "--sweep batchsize: unknown knob batchsize; did you mean batch_size?"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(sweeps: dict[str, list[Any]], message: str) -> None:
    assert refusal(scenario(), **sweeps) == message


@pytest.mark.parametrize(
    ("option", "key", "values"),
    [
        ("batch_size=4,8", "batch_size", [4, 8]),
        ("precision=fp32, amp-bf16", "precision", ["fp32", "amp-bf16"]),
        ("data.source=cached,folder:/a/b", "data.source", ["cached", "folder:/a/b"]),
        ("learning_rate=1e-3", "learning_rate", [0.001]),
        ("compile_mode=null,default", "compile_mode", [None, "default"]),
        ("model_kwargs.sizes=[1, 2],[3]", "model_kwargs.sizes", [[1, 2], [3]]),
    ],
)
def test_a_sweep_is_read_as_yaml(option: str, key: str, values: list[Any]) -> None:
    assert parse_sweep(option) == (key, values)


@given(st.lists(st.integers(1, 9999), min_size=1))
def test_swept_numbers_come_back(values: list[int]) -> None:
    assert parse_sweep(f"batch_size={','.join(map(str, values))}") == ("batch_size", values)


@pytest.mark.parametrize(
    ("option", "part"),
    [
        ("batch_size", "--sweep: 'batch_size' is not of the form key=value; as in batch_size=4,8"),
        ("=4", "--sweep: '=4' is not of the form key=value"),
        ("batch_size=", "--sweep batch_size: has no value after the ="),
        ("batch_size=4,,8", "--sweep batch_size: line 1, column 4: is no YAML"),
        ("batchsize=4", "--sweep batchsize: unknown knob batchsize; did you mean batch_size?"),
        ("measure.launches=4", "measure.launches belongs to the whole scenario"),
        ("data=4", "--sweep data: data is a group of knobs; name one: data.source"),
        ("model='${name}'", "interpolates, and here is no scenario to take a value from"),
        ("model_kwargs.=4", "--sweep model_kwargs.: unknown knob"),
    ],
)
def test_a_sweep_that_cannot_be_read_says_why(option: str, part: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_sweep(option)
    assert part in str(caught.value)


def test_a_knob_is_swept_once() -> None:
    assert parse_sweeps(["seed=1", "batch_size=2"]) == {"seed": [1], "batch_size": [2]}
    with pytest.raises(ScenarioError, match="--sweep seed: is given twice"):
        parse_sweeps(["seed=1", "seed=2"])
