"""Files of the user's that a knob names: they must be there, and what is in them is a setting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.backends import users_files
from bench.cli import running
from bench.results.store import Store
from bench.run import recording
from bench.run.ending import End
from bench.run.fitting import check_contents
from bench.run.launching import Order, job_of
from bench.run.plan import Planned, for_one_launch, plan
from bench.scenarios.errors import ScenarioError
from tests.builders import a_case, launches_of
from tests.run.examiner import HERE, KILLED

KNOBS: list[tuple[str, str, str]] = [
    ("accelerate", "accelerate", '{"distributed_type": "NO"}'),
    ("deepspeed", "zero", '{"zero_optimization": {"overlap_comm": true}}'),
]
each = pytest.mark.parametrize(("engine", "group", "content"), KNOBS, ids=lambda value: value[:10])


def planned(engine: str, group: str, path: Path | str, **knobs: Any) -> Planned:
    own: dict[str, Any] = {"engine": engine, group: {"config": str(path)}} | knobs
    (found,) = plan([a_case(knobs=own)], [HERE], {})
    return found


def record_of(case: Planned, end: End | None = None) -> Any:
    launches = launches_of(10.0, 11.0) if end is None else []
    return recording.record_of(case, "session", launches, end, {})


@each
def test_another_content_is_another_series_and_another_place_is_none(
    tmp_path: Path, engine: str, group: str, content: str
) -> None:
    (tmp_path / "own").write_text("{}", encoding="utf-8")
    (tmp_path / "copy").write_text("{ }\n", encoding="utf-8")
    before, copy = (planned(engine, group, tmp_path / name).keys for name in ("own", "copy"))
    (tmp_path / "own").write_text(content, encoding="utf-8")
    after = planned(engine, group, tmp_path / "own").keys
    assert before == copy
    assert before.series != after.series
    assert before.fingerprint != after.fingerprint
    assert before.work == after.work


@each
def test_a_file_that_is_not_there_is_said_before_anything_runs(
    tmp_path: Path, engine: str, group: str, content: str
) -> None:
    with pytest.raises(ScenarioError, match=f"{group}.config.*there is no file"):
        planned(engine, group, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("engine", "group", "content", "said"),
    [
        ("accelerate", "accelerate", "distributed_type: FSDP", "FSDP is not driven; set engine=f"),
        ("deepspeed", "zero", '{"gradient_clipping": 1.0}', "gradient_clipping=1.0 contradicts"),
    ],
)
def test_a_file_that_says_otherwise_than_the_case_is_refused_before_anything_runs(
    tmp_path: Path, engine: str, group: str, content: str, said: str
) -> None:
    path = tmp_path / "own"
    path.write_text(content, encoding="utf-8")
    found = planned(engine, group, path)
    with pytest.raises(ScenarioError, match=f"on cpu: {group}.config={path}: .*{said}"):
        check_contents([found])
    unavailable = replace(found, probe=HERE.model_copy(update={"available": False}))
    check_contents([unavailable])


@each
def test_the_ranks_and_the_record_are_told_what_was_planned(
    tmp_path: Path, engine: str, group: str, content: str
) -> None:
    path = tmp_path / "own"
    path.write_text(content, encoding="utf-8")
    found = planned(engine, group, path)
    digest = {f"{group}.config": users_files.digest(f"{group}.config", path)}
    # What is planned anew after a launch has ended is what was planned first.
    path.write_text("{}", encoding="utf-8")
    assert for_one_launch(found).keys.series == found.keys.series
    order = Order(for_one_launch(found), 0, 1, "session", 0, 60.0, "none")
    assert job_of(order, tmp_path).contents == digest
    assert record_of(found).contents == digest


def test_the_path_in_a_record_tells_nobodys_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    folder = tmp_path / "somebody" / "configs"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text("{}", encoding="utf-8")
    case = planned("accelerate", "accelerate", folder / "own.yaml")
    record = record_of(case)
    assert record.requested.knobs.accelerate.config == "~/configs/own.yaml"
    assert case.case.knobs.accelerate.config == str(folder / "own.yaml")
    assert "somebody" not in record.model_dump_json()
    assert record_of(case, KILLED).requested == record.requested


@each
def test_a_record_is_repeated_with_what_its_file_said_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, group: str, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    knob, path = f"{group}.config", tmp_path / "own"
    path.write_text(content, encoding="utf-8")
    name = str(Store(tmp_path).append(record_of(planned(engine, group, "own"))))

    def repeated(*settings: str) -> Any:
        return getattr(running.work(name, settings, tmp_path).item, "knobs", None)

    path.write_text(f"\n{content}\n", encoding="utf-8")
    assert users_files.named(repeated()) == {knob: Path("own")}
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ScenarioError, match=f"{knob}=own: .*something else than when the record"):
        repeated("batch_size=4")
    assert users_files.named(repeated(f"{knob}=own")) == {knob: Path("own")}
    path.unlink()
    with pytest.raises(ScenarioError, match=f"{knob}=own: the file that the record names is not"):
        repeated()
    assert users_files.named(repeated(f"{knob}=null")) == {}
