"""Files of the user's that a knob names: they must be there, and what is in them is a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.run.plan import Planned, plan
from bench.scenarios.errors import ScenarioError
from tests.builders import a_case
from tests.run.examiner import HERE

KNOBS: list[tuple[str, str]] = [("accelerate", "accelerate"), ("deepspeed", "zero")]


def planned(engine: str, group: str, path: Path) -> Planned:
    knobs: dict[str, Any] = {"engine": engine, group: {"config": str(path)}}
    (found,) = plan([a_case(knobs=knobs)], [HERE], {})
    return found


@pytest.mark.parametrize(("engine", "group"), KNOBS)
def test_another_content_is_another_fingerprint_of_the_same_series(
    tmp_path: Path, engine: str, group: str
) -> None:
    path = tmp_path / "own"
    keys = []
    for content in ("{}", '{"a": 1}', "{}"):
        path.write_text(content, encoding="utf-8")
        keys.append(planned(engine, group, path).keys)
    assert keys[0] == keys[2]
    assert keys[0].fingerprint != keys[1].fingerprint
    assert keys[0].series == keys[1].series


@pytest.mark.parametrize(("engine", "group"), KNOBS)
def test_a_file_that_is_not_there_is_said_before_anything_runs(
    tmp_path: Path, engine: str, group: str
) -> None:
    with pytest.raises(ScenarioError, match=f"{group}.config.*there is no file"):
        planned(engine, group, tmp_path / "nowhere")
