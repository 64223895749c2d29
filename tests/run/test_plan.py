"""Planning: which cases there are, which is first, and what makes two of them the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.backends.base import Probe
from bench.run.plan import Planned, choose, for_one_launch, plan
from bench.run.pythons import module_places
from bench.scenarios import compose
from bench.scenarios.errors import ScenarioError
from bench.scenarios.schema import Scenario

CPU = Probe(backend="cpu", available=True, device_model="A CPU, 2 CPUs")


def a_scenario(folder: Path, **top: object) -> Scenario:
    path = folder / "mine.yaml"
    lines = ["schema: 1", "name: mine", *(f"{key}: {value}" for key, value in top.items())]
    lines += ["cases:", "- {case: one}", "- {case: two, set: {batch_size: 2}}"]
    path.write_text("\n".join(lines), encoding="utf-8")
    return compose.load(str(path))


def test_cases_of_one_scenario_keep_counting_over_several_arguments(tmp_path: Path) -> None:
    first, second = plan([a_scenario(tmp_path)], [CPU], {})

    again = plan([second.case, first.case], [CPU], {})

    assert [p.position for p in again] == [0, 1]
    assert [p.case.case for p in again] == ["two", "one"]


def test_a_case_that_is_named_twice_is_planned_once(tmp_path: Path) -> None:
    scenario = a_scenario(tmp_path)

    assert len(plan([scenario, scenario], [CPU], {})) == 2


def test_positions_count_per_backend(tmp_path: Path) -> None:
    absent = Probe(backend="cuda", available=False, reason="none here")

    planned = plan([a_scenario(tmp_path)], [CPU, absent], {})

    assert [(p.backend, p.position) for p in planned] == [
        ("cpu", 0),
        ("cpu", 1),
        ("cuda", 0),
        ("cuda", 1),
    ]


def test_the_same_processor_with_other_cpus_to_use_is_another_series(tmp_path: Path) -> None:
    more = CPU.model_copy(update={"device_model": "A CPU, 96 CPUs"})
    scenario = a_scenario(tmp_path)

    few, many = plan([scenario], [CPU], {})[0], plan([scenario], [more], {})[0]

    assert few.keys.series != many.keys.series
    assert few.keys.work == many.keys.work


def test_a_single_launch_has_a_fingerprint_of_its_own_and_its_share_of_the_budget(
    tmp_path: Path,
) -> None:
    case = plan([a_scenario(tmp_path, measure="{launches: 3, budget_s: 12.0}")], [CPU], {})[0]

    alone = for_one_launch(case)

    assert alone.case.measure.launches == 1
    assert alone.case.measure.budget_s == 4.0
    assert alone.keys.series == case.keys.series
    assert alone.keys.fingerprint != case.keys.fingerprint


NEURON = Probe(
    backend="neuron",
    available=True,
    device_model="Trainium1",
    device_count=2,
    flavour="xla",
    facts={"pjrt": "NEURON", "family": "trn1"},
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEURON_CC_FLAGS", "--distribution-strategy=llm-training"),
        ("NEURON_FUSE_SOFTMAX", "1"),
        ("XLA_FLAGS", "--xla_dump_hlo_as_text"),
    ],
)
def test_a_flag_of_the_environment_that_no_knob_stands_for_is_another_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Else --resume would take a run that was compiled otherwise for the same."""
    monkeypatch.delenv(name, raising=False)
    scenario = a_scenario(tmp_path)
    without = plan([scenario], [NEURON], {})[0]

    monkeypatch.setenv(name, value)
    told = plan([scenario], [NEURON], {})[0]

    assert (without.refusals, told.refusals) == ([], [])
    assert told.keys.fingerprint != without.keys.fingerprint
    assert told.keys.series == without.keys.series
    monkeypatch.delenv(name)
    assert plan([scenario], [NEURON], {})[0].keys == without.keys


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NEURON_RT_VISIBLE_CORES", "0-1"),
        # The adapter says it anew, so that the user's value never acts.
        ("OMP_NUM_THREADS", "77"),
        ("EDITOR", "ed"),
    ],
)
def test_a_variable_that_does_not_act_keeps_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    before = plan([a_scenario(tmp_path)], [NEURON], {})[0]
    monkeypatch.setenv(name, value)
    assert plan([a_scenario(tmp_path)], [NEURON], {})[0].keys == before.keys


def with_own_model(folder: Path) -> Planned:
    return plan([a_scenario(folder, model="nets.small:build")], [CPU], {})[0]


def test_an_edit_of_the_users_own_model_changes_the_fingerprint_and_not_the_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "nets"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('planning must not import it')\n")
    (package / "small.py").write_text("def build(): ...\n")
    before = with_own_model(tmp_path)

    assert with_own_model(tmp_path).keys == before.keys
    (package / "small.py").write_text("def build(): return 1\n")
    after = with_own_model(tmp_path)

    assert after.keys.fingerprint != before.keys.fingerprint
    assert after.keys.series == before.keys.series


@pytest.mark.parametrize(("shadowed", "acts"), [(True, False), (False, True)])
def test_the_module_that_the_worker_imports_is_the_one_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shadowed: bool, acts: bool
) -> None:
    """A module on Python's own path comes before one of the same name in the working folder."""
    local, installed = tmp_path / "local", tmp_path / "installed"
    for folder in (local, *([installed] if shadowed else [])):
        (folder / "nets").mkdir(parents=True)
        (folder / "nets" / "small.py").write_text("def build(): ...\n")
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.chdir(local)
    before = with_own_model(tmp_path)

    (local / "nets" / "small.py").write_text("def build(): return 1\n")

    changed = with_own_model(tmp_path).keys.fingerprint != before.keys.fingerprint
    assert changed is acts


def test_another_python_looks_into_its_own_packages(tmp_path: Path) -> None:
    """A stand-in for an environment: only the search for modules is asked of it."""
    stand_in = tmp_path / "python"
    stand_in.write_text("#!/bin/sh\necho '[\"/theirs\"]'\n")
    stand_in.chmod(0o755)

    assert module_places(str(stand_in)) == ["/theirs", str(Path.cwd())]


def test_a_pool_on_the_device_that_a_graph_would_exhaust_is_refused(tmp_path: Path) -> None:
    data, loader = "{source: device, pool: 4}", "{batches_per_execution: 4}"
    with pytest.raises(
        ScenarioError,
        match=r"mine / one: data.pool: 4 is too small: .* set data.pool to 5 or more, or to null",
    ):
        plan([a_scenario(tmp_path, data=data, loader=loader)], [CPU], {})
    large = data.replace("4", "5")
    assert len(plan([a_scenario(tmp_path, data=large, loader=loader)], [CPU], {})) == 2


@pytest.mark.parametrize("wanted", [["two"], ["1"]])
def test_a_case_is_chosen_by_name_or_number(tmp_path: Path, wanted: list[str]) -> None:
    chosen = choose(plan([a_scenario(tmp_path)], [CPU], {}), wanted)

    assert [p.case.case for p in chosen] == ["two"]


def test_a_case_that_is_not_there_is_named_with_what_is_close(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"--case twoo: there is no such case; .*mean two"):
        choose(plan([a_scenario(tmp_path)], [CPU], {}), ["twoo"])


@pytest.mark.parametrize("path", ["/nowhere/at/all", "~nosuchuser/images"])
def test_a_folder_of_images_that_is_not_there_is_found_before_anything_runs(
    tmp_path: Path, path: str
) -> None:
    with pytest.raises(ScenarioError, match="there is no folder"):
        plan([a_scenario(tmp_path, data=f"{{source: 'folder:{path}'}}")], [CPU], {})
