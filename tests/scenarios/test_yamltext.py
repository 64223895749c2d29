"""Reading YAML: plain data comes through unchanged, everything else says where it stands."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scenarios import yamltext
from bench.scenarios.errors import ScenarioError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet="abc_.", min_size=1), inner),
    max_leaves=8,
)


def refusal(text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        yamltext.parse(text, "mine.yaml")
    return str(caught.value)


@given(PLAIN)
def test_json_is_read_as_it_was_written(value: object) -> None:
    assert yamltext.parse(json.dumps(value, ensure_ascii=False), "x") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.", 1.0),
        ("010", 10),
        ("-3", -3),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("~", None),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("mypackage.nets:build", "mypackage.nets:build"),
        ("on: batch-size", {"on": "batch-size"}),
        ("<<: {a: 1}", {"<<": {"a": 1}}),
    ],
)
def test_a_scalar_means_what_it_looks_like(text: str, value: object) -> None:
    read = yamltext.parse(text, "x")
    assert read == value
    assert type(read) is type(value)


def test_a_tab_is_named_with_its_line_and_column() -> None:
    assert refusal("data:\n\tsource: cached\n") == (
        "mine.yaml: line 2, column 1: a tab cannot stand here; indent with spaces"
    )


def test_a_repeated_key_is_named_with_its_second_place() -> None:
    assert refusal("data:\n  workers: 1\n  workers: 2\n") == (
        "mine.yaml: line 3, column 3: the key 'workers' stands here for the second time; "
        "remove one of the two"
    )


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!set", "!mine"]
)
def test_a_tag_is_refused_and_nothing_is_built(tag: str) -> None:
    message = refusal(f"model: {tag} [ls]")
    assert message.startswith("mine.yaml: line 1, column 8: the tag ")
    assert "only plain data is read" in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: &x 1\nb: *x", "line 2, column 4: aliases (*name) are not supported"),
        ("a: &x [*x]", "line 1, column 8: aliases"),
        ("1: a", "line 1, column 1: the key '1' is not text; put it in quotes"),
        ("a: .nan", "line 1, column 4: '.nan' is not a finite number"),
        ("a: 1e999", "line 1, column 4: '1e999' is not a finite number"),
        ("a: " + "9" * 5000, "line 1, column 4: '99999999999999999999' is no usable whole number"),
        ("a: 1\n---\nb: 1", "line 2, column 1: holds more than one document; keep one"),
        ("a: [1", "is no YAML"),
        ("a: @x", "line 1, column 4: is no YAML: found character '@'"),
        ("[" * 200 + "]" * 200, "nested more than 100 levels deep"),
        ("a: \x00", "character 3"),
        ('a: "\\ud800"', "line 1, column 4: the text holds half a character"),
    ],
)
def test_what_is_no_plain_data_is_refused_with_its_place(text: str, part: str) -> None:
    assert part in refusal(text)


def test_an_empty_text_is_null() -> None:
    assert yamltext.parse("# nothing\n", "x") is None
