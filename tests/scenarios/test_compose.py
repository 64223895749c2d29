"""From a name or a file to a scenario: what is inherited, and what every mistake is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.scenarios.compose import load, shipped
from bench.scenarios.errors import ScenarioError
from tests.scenarios.conftest import Write


def refusal(name_or_path: str, *overrides: str) -> str:
    """Return the message, without the folder of the test."""
    with pytest.raises(ScenarioError) as caught:
        load(name_or_path, overrides)
    message = str(caught.value)
    assert "pydantic" not in message
    return re.sub(r"/\S*/", "", message)


# Inheritance


def test_a_child_changes_what_it_says_and_keeps_the_rest(write: Write) -> None:
    write("batch_size: 16\ndata: {source: cached, workers: 2}\nmodel_kwargs: {a: 1}", "base.yaml")
    child = load(write("extends: base.yaml\ndata: {workers: 1}\nmodel_kwargs: {b: 2}"))
    assert child.batch_size == 16
    assert (child.data.source, child.data.workers) == ("cached", 1)
    assert child.model_kwargs == {"a": 1, "b": 2}


def test_a_child_may_extend_a_shipped_scenario(write: Write) -> None:
    child = load(write("extends: quick\nbatch_size: 2"))
    assert (child.name, child.batch_size, child.data.source) == ("mine", 2, "cached")
    assert [entry.case for entry in child.cases] == ["fp32", "amp-bf16"]


def test_extends_is_relative_to_the_file_that_says_it(write: Write) -> None:
    write("seed: 1", "far/grand.yaml")
    write("extends: ../far/grand.yaml\nbatch_size: 2", "near/parent.yaml")
    scenario = load(write("extends: near/parent.yaml\nclasses: 5"))
    assert (scenario.seed, scenario.batch_size, scenario.classes) == (1, 2, 5)


@pytest.mark.parametrize(
    "way", ["matrix: {seed: [1, 2]}", "ladder: [{rung: a}]", "cases: [{case: b}]"]
)
def test_a_childs_cases_replace_those_of_its_parent_whatever_their_kind(
    write: Write, way: str
) -> None:
    write("matrix: {batch_size: [1, 2], seed: [5]}", "base.yaml")
    child = load(write(f"extends: base.yaml\n{way}"))
    assert "batch_size" not in child.matrix
    assert sum(map(bool, (child.matrix, child.ladder, child.cases))) == 1


def test_a_child_without_cases_keeps_those_of_its_parent(write: Write) -> None:
    write("matrix: {batch_size: [1, 2]}", "base.yaml")
    assert load(write("extends: base.yaml")).matrix == {"batch_size": [1, 2]}


def test_a_child_has_its_own_name_and_description(write: Write) -> None:
    write("name: base\ndescription: the base", "base.yaml")
    child = load(write("extends: base.yaml", "child.yaml"))
    assert (child.name, child.description) == ("child", "")


def test_null_in_a_child_asks_for_the_default_again(write: Write) -> None:
    write("optimizer: sgd\nmomentum: 0.5", "base.yaml")
    child = load(write("extends: base.yaml\noptimizer: null\nmomentum: null"))
    assert (child.optimizer, child.momentum) == ("adamw", None)


def test_a_circle_is_shown_with_its_way(write: Write) -> None:
    write("extends: b.yaml", "a.yaml")
    write("extends: c.yaml", "b.yaml")
    write("extends: a.yaml", "c.yaml")
    assert refusal(str(Path(write("extends: a.yaml")))) == (
        "c.yaml: extends: goes in a circle: a.yaml -> b.yaml -> c.yaml -> a.yaml; "
        "remove one of them"
    )


def test_a_file_that_extends_itself_is_a_circle(write: Write) -> None:
    assert "goes in a circle: mine.yaml -> mine.yaml" in refusal(write("extends: mine.yaml"))


@pytest.mark.parametrize(
    ("extends", "part"),
    [
        ("gone.yaml", "mine.yaml: extends: there is no file 'gone.yaml'"),
        ("quik", "mine.yaml: extends: 'quik' is no shipped scenario; did you mean quick?"),
        ("[a, b]", "mine.yaml: extends: ['a', 'b'] is no name"),
        ('"a\\0.yaml"', "mine.yaml: extends: there is no file"),
    ],
)
def test_a_parent_that_cannot_be_found_is_named(write: Write, extends: str, part: str) -> None:
    assert part in refusal(write(f"extends: {extends}"))


def test_a_mistake_of_the_parent_is_told_with_the_parents_name(write: Write) -> None:
    write("batch_size: 0", "base.yaml")
    assert refusal(write("extends: base.yaml")).startswith("base.yaml: batch_size: 0 must be")


# Interpolation


def test_an_interpolation_takes_value_and_type_of_another_key(write: Write) -> None:
    text = 'batch_size: 6\ndata: {source: cached, pool: "${batch_size}"}\nimage_size: ${data.pool}'
    scenario = load(write(text))
    assert (scenario.data.pool, scenario.image_size) == (6, 6)


def test_an_override_is_seen_by_an_interpolation(write: Write) -> None:
    path = write("batch_size: 6\nimage_size: ${batch_size}")
    assert load(path, ["batch_size=9"]).image_size == 9


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HOME}",
        "a-${oc.env:HOME,x}",
        "${ oc.env:HOME }",
        "${oc.${seed}:HOME}",
        "${oc.decode:'1'}",
        "${.batch_size}",
        "${a",
    ],
)
def test_an_interpolation_of_anything_but_a_key_is_refused(write: Write, text: str) -> None:
    message = refusal(write(f'model: "{text}"'))
    assert message.startswith("mine.yaml: model: ")
    assert "stay out of shared records" in message


def test_an_override_cannot_read_the_environment_either() -> None:
    assert refusal("quick", "model=${oc.env:HOME}").startswith("--set model: '${oc.env:HOME}'")


def test_a_parent_cannot_read_the_environment_for_a_child_that_replaces_it(write: Write) -> None:
    write("model: ${oc.env:HOME}", "base.yaml")
    assert refusal(write("extends: base.yaml\nmodel: x")).startswith("base.yaml: model: ")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model: ${nothing}", "mine.yaml: model: Interpolation key 'nothing' not found"),
        ("model: ${model}", "mine.yaml: model"),
        ('model: "???"', "mine.yaml: model: ??? stands for a value that is missing"),
    ],
)
def test_an_interpolation_that_leads_nowhere_is_refused(write: Write, text: str, part: str) -> None:
    assert refusal(write(text)).startswith(part)


@pytest.mark.parametrize(
    "cases",
    [
        "matrix: {batch_size: [1, 2]}",
        "cases: [{case: a, set: {batch_size: 1}}]",
        "ladder: [{rung: a, set: {batch_size: 1}}]",
    ],
)
def test_an_interpolation_of_a_knob_that_the_cases_vary_is_refused(
    write: Write, cases: str
) -> None:
    assert refusal(write(f"batch_size: 6\nimage_size: ${{batch_size}}\n{cases}")) == (
        "mine.yaml: ${batch_size}: is resolved once, while the cases vary batch_size; "
        "write the value in each case instead"
    )


# Files


def test_what_is_no_scenario_file_is_told_what_it_is(tmp_path: Path, write: Write) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "big.yaml").write_bytes(b"#" * 1_000_001)
    assert refusal(f"{tmp_path}/gone.yaml") == "gone.yaml: there is no such file"
    assert "is a folder; name a YAML file in it" in refusal(f"{tmp_path}/")
    assert refusal(f"{tmp_path}/binary.yaml").startswith("binary.yaml: is not a text file (UTF-8)")
    assert refusal(f"{tmp_path}/big.yaml").startswith("big.yaml: is larger than 1000000 bytes")
    assert refusal(write("", head="")) == "mine.yaml: is empty; start with schema: 1"
    assert refusal(write("- a", head="")).startswith(
        "mine.yaml: holds a list where a mapping belongs"
    )
    assert refusal(write("a", head="")).startswith("mine.yaml: holds 'a' where a mapping belongs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_told(write: Write) -> None:
    path = write("seed: 1")
    Path(path).chmod(0)
    assert refusal(path) == "mine.yaml: cannot be read (Permission denied)"


def test_a_file_that_lies_under_a_file_cannot_be_read(write: Write) -> None:
    assert refusal(f"{write('seed: 1')}/inner.yaml") == (
        "inner.yaml: cannot be read (Not a directory)"
    )


@pytest.mark.parametrize(
    ("head", "part"),
    [
        ("", "mine.yaml: schema: is missing; write schema: 1 at the top"),
        ("schema: 2\n", "mine.yaml: schema: 2 is newer than what this version reads (1)"),
        ("schema: '1'\n", "mine.yaml: schema: '1' is no version"),
        ("schema: true\n", "mine.yaml: schema: true is no version"),
        ("schema: 0\n", "mine.yaml: schema: 0 is no version"),
    ],
)
def test_a_file_says_which_schema_it_follows(write: Write, head: str, part: str) -> None:
    assert refusal(write("seed: 1", head=head)).startswith(part)


def test_every_file_of_a_chain_says_which_schema_it_follows(write: Write) -> None:
    write("seed: 1", "base.yaml", head="")
    assert refusal(write("extends: base.yaml")).startswith("base.yaml: schema: is missing")


def test_a_byte_order_mark_is_no_part_of_the_first_key(write: Write) -> None:
    assert load(write("seed: 4", head="\ufeffschema: 1\n")).seed == 4


# Names


def test_an_unknown_name_is_answered_with_the_closest_one() -> None:
    assert refusal("quik") == "scenario: 'quik' is no shipped scenario; did you mean quick?"


def test_a_name_like_nothing_is_answered_with_all_of_them() -> None:
    names = "loader, quick, vit-ladder, vit-matrix, vit-offload, vit-scaling, vit-train"
    assert refusal("zzz").endswith(f"choose one of {names}")


def test_a_file_of_that_name_is_pointed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text("schema: 1\nseed: 3\n")
    assert refusal("mine").endswith("to use the file of this name, write ./mine")
    assert load("./mine").seed == 3


def test_a_name_as_long_as_no_file_systems_is_still_unknown() -> None:
    assert "is no shipped scenario" in refusal("x" * 5000)


# Mistakes in a file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 4", "mine.yaml: batchsize: unknown key batchsize; did you mean batch_size?"),
        ("data: {sauce: jpeg}", "mine.yaml: data.sauce: unknown key sauce; did you mean source?"),
        ("batch_size: '4'", "mine.yaml: batch_size: '4' must be a whole number"),
        ("batch_size: 4.0", "mine.yaml: batch_size: 4.0 must be a whole number"),
        ("learning_rate: x", "mine.yaml: learning_rate: 'x' must be a number"),
        ("channels_last: on", "mine.yaml: channels_last: 'on' must be true or false"),
        ("model: 5", "mine.yaml: model: 5 must be text"),
        ("data: cached", "mine.yaml: data: 'cached' must be a mapping"),
        (
            "precision: fp16",
            "mine.yaml: precision: 'fp16' is not one of fp32, tf32, amp-bf16, amp-fp16, bf16, "
            "bf16-env, fp8-tensorwise, fp8-rowwise; did you mean bf16?",
        ),
        (
            "data: {source: disk}",
            "mine.yaml: data.source: 'disk' is not one of random, cached, device, jpeg, "
            "folder:PATH",
        ),
        (
            "data.workers: 1",
            "mine.yaml: data.workers: is dotted at the top level; write data: and workers: "
            "indented below it",
        ),
        (
            "momentum: 0.5",
            "mine.yaml: momentum has no meaning for optimizer=adamw: remove it",
        ),
        (
            "matrix: {batchsize: [1]}",
            "mine.yaml: matrix.batchsize: unknown knob batchsize; did you mean batch_size?",
        ),
        ("matrix: {batch_size: 1}", "mine.yaml: matrix.batch_size: 1 must be a list"),
        (
            "matrix: {batch_size: []}",
            "mine.yaml: matrix.batch_size: has no values; give at least one",
        ),
        (
            "cases: [{case: a, set: {workers: 1}}]",
            "mine.yaml: cases[0].set.workers: unknown knob workers; did you mean data.workers?",
        ),
        (
            "cases: [{case: a, set: {measure: {launches: 1}}}]",
            "mine.yaml: cases[0].set.measure: measure belongs to the whole scenario, not to one "
            "of its cases; write measure at the top level of the scenario",
        ),
        (
            "cases: [{case: a, set: {data: 1}}]",
            "mine.yaml: cases[0].set.data: data is a group of knobs; name one: data.source, "
            "data.pool, data.images, data.workers, data.prefetch, data.pin_memory",
        ),
        (
            "cases: [{case: a, set: {data.workers: 1, data: {workers: 2}}}]",
            "mine.yaml: cases[0].set.data.workers: data.workers is set here already; remove one",
        ),
        ("ladder: [{rung: a}, {set: {}}]", "mine.yaml: ladder[1].rung: is missing; add it"),
        (
            "ladder: [{rung: a, ont: b}]",
            "mine.yaml: ladder[0].ont: unknown key ont; did you mean on?",
        ),
    ],
)
def test_a_mistake_is_one_line_with_file_key_value_and_remedy(
    write: Write, text: str, message: str
) -> None:
    assert refusal(write(text)) == message


def test_several_mistakes_are_told_at_once(write: Write) -> None:
    assert refusal(write("batch_size: 0\nseed: a\nmodle: x")).splitlines() == [
        "mine.yaml: 3 problems",
        "  mine.yaml: batch_size: 0 must be greater than or equal to 1",
        "  mine.yaml: seed: 'a' must be a whole number",
        "  mine.yaml: modle: unknown key modle; did you mean model?",
    ]


def test_a_yaml_mistake_is_told_with_the_file(write: Write) -> None:
    assert refusal(write("data:\n\tworkers: 1")).startswith(
        "mine.yaml: line 3, column 1: a tab cannot stand here"
    )


# Shipped


def test_the_shipped_scenarios_say_what_they_are() -> None:
    assert [name for name, _ in shipped()] == [
        "loader",
        "quick",
        "vit-ladder",
        "vit-matrix",
        "vit-offload",
        "vit-scaling",
        "vit-train",
    ]
    assert all(len(description) > 20 for _, description in shipped())


def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys; from bench.scenarios import compose, export; compose.load('quick'); "
        "export.json_schema(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
