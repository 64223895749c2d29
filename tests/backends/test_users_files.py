"""Files of the user's that a knob names: known by what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.backends import users_files
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Knobs


def written(folder: Path, text: str, name: str = "own") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_case_without_any_names_none() -> None:
    assert users_files.named(Knobs(engine="accelerate")) == {}
    assert users_files.digests(Knobs()) == {}


def test_a_file_in_the_users_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = written(tmp_path, '{"zero_optimization": {"overlap_comm": true}}', "zero.json")
    knobs = Knobs.model_validate({"engine": "deepspeed", "zero": {"config": "~/zero.json"}})
    assert users_files.named(knobs) == {"zero.config": path}
    assert users_files.digests(knobs) == {"zero.config": users_files.digest("zero.config", path)}


@pytest.mark.parametrize(
    ("knob", "one", "same", "other"),
    [
        ("zero.config", '{"a": 1, "b": 2}', '{"b": 2,\n "a": 1}', '{"a": 1, "b": 3}'),
        ("accelerate.config", "a: 1\nb: 2\n", "# Mine.\nb: 2\na: 1\n", "a: 1\nb: 3\n"),
    ],
)
def test_what_is_said_counts_and_not_how(
    tmp_path: Path, knob: str, one: str, same: str, other: str
) -> None:
    found = [users_files.digest(knob, written(tmp_path, text)) for text in (one, same, other)]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("knob", "text", "said"),
    [
        ("zero.config", "[]", "it holds no keys and values"),
        ("zero.config", "{", "it cannot be read"),
        ("accelerate.config", "[1]", "it holds no keys and values"),
        ("accelerate.config", "1: 2", "it holds no keys and values"),
        ("accelerate.config", "{", "it cannot be read"),
        ("accelerate.config", "a: &a [*a]", "it is no configuration"),
        ("accelerate.config", "a: {1: 2, b: 3}", "it is no configuration"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(
    tmp_path: Path, knob: Any, text: str, said: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ScenarioError, match=f"^{knob}={path}: {said}"):
        users_files.digest(knob, path)
