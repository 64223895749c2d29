"""The documents and the project's own files say what is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from bench.scenarios.compose import load, shipped
from bench.scenarios.schema import Knobs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return the text of a README section."""
    found = re.search(rf"^## {title}$(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def test_ci_runs_the_very_commands_of_the_readmes_tests_section() -> None:
    commands = [line.strip() for line in section("Tests").splitlines() if line.startswith("    ")]

    assert commands
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for command in commands:
        assert command in script


def test_the_first_command_installs_an_extra_that_exists_and_runs_a_shipped_scenario() -> None:
    line = next(line for line in section("Measure").splitlines() if line.startswith("    pip"))
    match = re.fullmatch(r'\s+pip install "\.\[(\w+)\]" && bench run (\S+)', line)
    assert match is not None, line

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert match[1] in project["optional-dependencies"]
    assert match[2] in [item.name for item in shipped()]


def test_the_neuron_extra_does_not_ask_for_the_registrys_placeholder() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert not [name for name in project["optional-dependencies"]["neuron"] if "neuronx" in name]


def test_the_readme_names_every_knob_and_no_other() -> None:
    listed = re.search(r"^Knobs: (.*?), and how", README, re.MULTILINE | re.DOTALL)
    assert listed is not None
    named = set(re.findall(r"`([\w.]+)`", listed[1]))

    known = set()
    for name, field in Knobs.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        known |= {f"{name}.{key}" for key in inner} if inner else {name}
    assert named == known


SCENARIOS = sorted(set(ROOT.glob("examples/**/*.yaml")) - {ROOT / "examples" / "prices.yaml"})


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.name)
def test_every_example_composes(path: Path) -> None:
    assert load(str(path)).description


def test_the_readmes_yaml_is_a_valid_scenario(tmp_path: Path) -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block is not None
    path = tmp_path / "readme.yaml"
    path.write_text(block[1], encoding="utf-8")

    assert load(str(path)).name == "my-matrix"


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"])
def test_every_path_that_a_document_names_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = set(
        re.findall(r"`((?:bench|backends|benchmarks|scenarios|results|tests)/[\w./-]*)`", text)
    )
    generated = {"results/runs/"}

    assert paths
    assert [path for path in sorted(paths - generated) if not (ROOT / path).exists()] == []
