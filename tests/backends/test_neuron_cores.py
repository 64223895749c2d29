"""How many NeuronCores there are: by the driver's folders, its count, neuron-ls, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.backends import neuron_cores, neuron_refusals
from bench.backends.base import Probe
from bench.backends.neuron_environment import LNC
from bench.scenarios.schema import Knobs
from tests.backends import neuron_bed

TRN2_48XLARGE = json.dumps(
    [
        {
            "neuron_device": device,
            "nc_count": 4,
            "logical_neuroncore_config": 2,
            "neuroncore_ids": list(range(4 * device, 4 * device + 4)),
            "neuron_processes": [],
        }
        for device in range(16)
    ]
)
INF2_XLARGE = json.dumps([{"neuron_device": 0, "bdf": "00:1f.0", "nc_count": 2}])


def unlisted() -> None:
    """Stand for a machine without neuron-ls."""


def devices(root: Path, number: int, cores: int, *, folders: bool, counted: bool) -> Path:
    """Make the driver's folders of so many devices."""
    for device in range(number):
        folder = root / f"sys/devices/virtual/neuron_device/neuron{device}"
        folder.mkdir(parents=True)
        if counted:
            neuron_bed.write(folder / "core_count", f"{cores}\n")
        for core in range(cores if folders else 0):
            (folder / f"neuron_core{core}").mkdir()
    return root


def told(root: Path, **variables: str) -> dict[str, Any]:
    return neuron_cores.facts(root, variables, unlisted)


class TestFacts:
    def test_the_folders_of_the_cores_are_counted(self, tmp_path: Path) -> None:
        root = devices(tmp_path, 2, 8, folders=True, counted=False)
        assert told(root) == {"cores_shown": None, "physical_cores": 16}

    def test_without_such_folders_the_driver_says_it_for_each_device(self, tmp_path: Path) -> None:
        root = devices(tmp_path, 3, 2, folders=False, counted=True)
        assert told(root)["physical_cores"] == 6

    def test_a_device_that_does_not_say_it_leaves_it_to_the_program(self, tmp_path: Path) -> None:
        root = devices(tmp_path, 3, 2, folders=False, counted=True)
        (root / "sys/devices/virtual/neuron_device/neuron1/core_count").unlink()
        assert told(root)["physical_cores"] is None
        assert neuron_cores.facts(root, {}, lambda: 6)["physical_cores"] == 6

    def test_what_the_user_shows_is_kept(self, tmp_path: Path) -> None:
        assert told(tmp_path, NEURON_RT_VISIBLE_CORES="1,4-5")["cores_shown"] == [1, 4, 5]

    def test_what_is_no_list_of_cores_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="NEURON_RT_VISIBLE_CORES=one"):
            told(tmp_path, NEURON_RT_VISIBLE_CORES="one")


class TestNeuronLs:
    @pytest.mark.parametrize(
        ("document", "cores"), [(TRN2_48XLARGE, 128), (INF2_XLARGE, 2), ("[]", None)]
    )
    def test_its_cores_are_logical_ones_of_so_many_each(
        self, document: str, cores: int | None
    ) -> None:
        assert neuron_cores.listed(document) == cores

    @pytest.mark.parametrize("document", ["", "{}x", '{"nc_count": 2}', "[1]", '[{"bdf": "x"}]'])
    def test_another_document_is_told_apart(self, document: str) -> None:
        with pytest.raises(ValueError, match=r"Expecting|Extra|not a document"):
            neuron_cores.listed(document)

    @pytest.mark.parametrize(
        ("script", "cores"),
        [
            (f"test $1 = --json-output && echo '{INF2_XLARGE}'", 2),
            ("echo 'cannot open /dev/neuron0'; exit 1", None),
            ("echo neuron", None),
        ],
    )
    def test_the_program_is_asked_and_may_not_be_able_to_tell(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, cores: int | None
    ) -> None:
        program = tmp_path / "neuron-ls"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        program.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda *_name, **_path: str(program))
        assert neuron_cores.neuron_ls() == cores

    def test_without_it_nothing_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "which", lambda *_name, **_path: None)
        assert neuron_cores.neuron_ls() is None


@pytest.mark.parametrize(
    ("family", "variables", "cores"),
    [
        ("inf2", {}, 1),
        ("trn1n", {}, 1),
        ("trn2", {}, 2),
        ("trn3u", {}, 2),
        ("trn2", {LNC: "1"}, 1),
        (None, {LNC: "2"}, 2),
        (None, {}, None),
    ],
)
def test_a_logical_core_is_made_of_what_the_environment_says_or_the_family_has(
    family: str | None, variables: dict[str, str], cores: int | None
) -> None:
    assert neuron_cores.lnc(family, variables) == cores


def probe(family: str | None, physical: int | None, shown: list[int] | None = None) -> Probe:
    facts: dict[str, Any] = {"family": family, "physical_cores": physical, "cores_shown": shown}
    return Probe(backend="neuron", available=True, device_count=1, facts=facts)


def refused(processes: int, found: Probe, **neuron: int) -> dict[str, str]:
    knobs = Knobs.model_validate({"processes": processes, "neuron": neuron})
    both = (*neuron_refusals.on_cores(knobs, found), *neuron_refusals.on_group(knobs, found))
    return {refusal.knob: refusal.reason for refusal in both}


class TestNumber:
    @pytest.mark.parametrize(
        ("processes", "neuron", "message"),
        [
            (64, {}, None),
            (65, {}, "64 NeuronCores are visible"),
            (128, {}, "64 NeuronCores are visible"),
            (128, {"lnc": 1}, None),
            (65, {"lnc": 2}, "64 NeuronCores are visible"),
        ],
    )
    def test_it_is_that_of_logical_cores(
        self, processes: int, neuron: dict[str, int], message: str | None
    ) -> None:
        found = refused(processes, probe("trn2", 128), **neuron)
        assert (message is None) == (found == {})
        assert (message or "") in found.get("processes", "")

    def test_where_nothing_tells_it_nothing_is_refused_for_it(self) -> None:
        assert refused(2, probe("inf2", None)) == {}

    def test_of_an_unknown_family_a_logical_core_is_a_physical_one(self) -> None:
        assert refused(8, probe(None, 8)) == {}
        assert "8 NeuronCores" in refused(9, probe(None, 8))["processes"]

    def test_the_cores_that_the_user_shows_are_the_logical_ones(self) -> None:
        assert refused(2, probe("trn2", 128, [2, 3])) == {}
        assert "2 NeuronCores" in refused(3, probe("trn2", 128, [2, 3]))["processes"]


class TestGroup:
    @pytest.mark.parametrize("processes", [1, 2, 8, 32])
    def test_the_numbers_of_trn1_are_those_of_its_guide(self, processes: int) -> None:
        assert refused(processes, probe("trn1", 32)) == {}

    @pytest.mark.parametrize("processes", [3, 4, 16, 31])
    def test_another_number_is_refused_with_them(self, processes: int) -> None:
        reason = refused(processes, probe("trn1n", 32))["processes"]
        assert (
            reason == "on trn1n AWS documents groups of 1, 2, 8, 32 cores, and of no other number"
        )

    @pytest.mark.parametrize(("processes", "free"), [(4, True), (12, False), (3, False)])
    def test_inf2_has_more(self, processes: int, free: bool) -> None:
        assert (refused(processes, probe("inf2", 24)) == {}) is free

    def test_all_cores_of_a_machine_are_a_group(self) -> None:
        assert refused(12, probe("inf2", 12)) == {}

    def test_all_that_the_user_shows_are_not_all_cores_of_a_machine(self) -> None:
        reason = refused(3, probe("trn1", 32, [0, 1, 2]))["processes"]
        assert "groups of 1, 2, 8, 32 cores" in reason
        assert refused(12, probe("inf2", 12, list(range(12)))) == {}

    @pytest.mark.parametrize("shown", [None, list(range(12))])
    def test_where_their_number_is_unknown_any_may_be_all_of_them(
        self, shown: list[int] | None
    ) -> None:
        assert refused(12, probe("inf2", None, shown)) == {}

    def test_nothing_is_known_of_the_numbers_of_others(self) -> None:
        assert refused(3, probe("trn2", 128)) == {}
        assert refused(3, probe(None, 8)) == {}

    @pytest.mark.parametrize("shown", [[0, 1], [2, 3], [2, 3, 4], [0, 1, 5]])
    def test_consecutive_cores_from_a_multiple_on_are_free(self, shown: list[int]) -> None:
        assert refused(2, probe("trn1", 32, shown)) == {}

    @pytest.mark.parametrize(
        ("shown", "own"), [([1, 2], "1,2"), ([0, 2], "0,2"), ([1, 0], "1,0"), ([3, 4, 5], "3,4")]
    )
    def test_others_are_refused(self, shown: list[int], own: str) -> None:
        knobs = Knobs.model_validate({"processes": 2})
        (found,) = neuron_refusals.on_group(knobs, probe("trn1", 32, shown))
        assert (found.knob, found.value) == ("NEURON_RT_VISIBLE_CORES", own)
        assert "from a multiple of 2 on" in found.reason

    def test_one_core_may_lie_anywhere(self) -> None:
        assert refused(1, probe("trn1", 32, [3])) == {}
