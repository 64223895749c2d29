"""What the probe says of the two things called torch-neuronx, of the device, and of neither."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.backends import neuron_cores, neuron_machine, neuron_native, neuron_refusals, xla
from bench.backends.base import Probe
from bench.backends.neuron import NeuronBackend
from bench.backends.neuron_native import Opened
from bench.scenarios.schema import Knobs
from tests.backends import neuron_bed

XLA = {"torch_neuronx": "2.9.0.2.15.32035"}
NATIVE = {"torch_neuronx": "2.14.3.0.1", "torch": "2.14.0+cpu"}


def distributions(**versions: str) -> Callable[[str], str]:
    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    return version


def unavailable(root: Path, **versions: str) -> Probe:
    probe = NeuronBackend(root, distributions(**versions), never, never).probe()
    assert not probe.available
    assert probe.backend == "neuron"
    assert probe.reason
    assert probe.remedy
    assert "\n" not in probe.reason + probe.remedy
    return probe


def never() -> Any:
    raise AssertionError("the device was opened")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the probe change an environment of its own, and find an installation that is whole."""
    monkeypatch.setattr("os.environ", {})
    monkeypatch.setattr(xla, "installation_problem", lambda: None)
    whole = SimpleNamespace(util=SimpleNamespace(find_spec=lambda _name: True))
    monkeypatch.setattr(neuron_native, "importlib", whole)


def test_without_a_device_it_says_so(tmp_path: Path) -> None:
    probe = unavailable(tmp_path)
    assert "no Neuron device" in (probe.reason or "")
    assert "aws-neuronx-dkms" in (probe.remedy or "")
    assert probe.flavour is None


@pytest.mark.parametrize("with_device", [False, True])
def test_the_placeholder_from_pypi_is_unmasked(tmp_path: Path, with_device: bool) -> None:
    root = neuron_bed.machine(tmp_path / "root") if with_device else tmp_path
    probe = unavailable(root, torch_neuronx="1.0")
    assert "placeholder" in (probe.reason or "")
    assert "AWS's package index" in (probe.remedy or "")
    assert probe.flavour is None


def test_a_device_without_software_is_told_apart(tmp_path: Path) -> None:
    probe = unavailable(neuron_bed.machine(tmp_path / "root"))
    assert "torch-neuronx is not installed" in (probe.reason or "")
    assert "torch-neuronx==2.9.*" in (probe.remedy or "")


@pytest.mark.parametrize(
    ("instance", "package"),
    [("inf2.xlarge", "2.9"), ("trn1.2xlarge", "2.9"), ("trn2.3xlarge", "2.14"), ("trn3.x", "2.14")],
)
def test_each_machine_is_told_the_flavour_that_is_for_it(
    tmp_path: Path, instance: str, package: str
) -> None:
    probe = unavailable(neuron_bed.machine(tmp_path / "root", instance=instance))
    assert f"torch-neuronx=={package}.*" in (probe.remedy or "")


def test_an_xla_flavour_older_than_torch_xla_2_9_is_named(tmp_path: Path) -> None:
    probe = unavailable(neuron_bed.machine(tmp_path / "root"), torch_neuronx="2.8.0.2.10.1")
    assert probe.flavour == "xla"
    assert "older than 2.9" in (probe.reason or "")


def test_a_broken_pair_of_torch_and_torch_xla_keeps_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xla, "installation_problem", lambda: ("torch_xla is not installed", "x"))
    probe = unavailable(neuron_bed.machine(tmp_path / "root"), **XLA)
    assert probe.reason == "torch_xla is not installed"
    assert "torch-neuronx==2.9.*" in (probe.remedy or "")


def found(root: Path, opened: Callable[[], tuple[str, str]], **versions: str) -> Probe:
    return NeuronBackend(root, distributions(**(versions or XLA)), opened).probe()


def test_an_open_core_is_described_with_flavour_software_and_machine(tmp_path: Path) -> None:
    root = neuron_bed.machine(tmp_path / "root")
    probe = found(root, lambda: ("NEURON", "NC_v2"), **XLA, neuronx_cc="2.24.1")
    assert probe.available
    assert (probe.device_model, probe.device_count) == ("Inferentia2 NC_v2", 2)
    assert probe.flavour == "xla"
    assert probe.preferred == neuron_machine.PREFERRED
    assert not probe.simulated
    assert probe.facts == {
        "pjrt": "NEURON",
        "torch_neuronx": "2.9.0.2.15.32035",
        "neuronx_cc": "2.24.1",
        "libneuronxla": None,
        "instance": "inf2.xlarge",
        "family": "inf2",
        "cores_shown": None,
        "physical_cores": 2,
    }
    assert probe.warnings == []


@pytest.mark.parametrize(
    ("instance", "kind", "name", "tflops"),
    [
        ("inf2.xlarge", "NC_v2", "Inferentia2 NC_v2", 95),
        ("trn1.2xlarge", "NC_v2", "Trainium1 NC_v2", 95),
        ("trn1n.32xlarge", "NC_v2", "Trainium1 NC_v2", 95),
        ("trn2.3xlarge", "NC_v3", "Trainium2 NC_v3", 83.375),
        ("trn2.3xlarge", "NC_v3d", "Trainium2 NC_v3d", 166.75),
    ],
)
def test_its_name_tells_chips_with_equal_cores_apart_and_is_in_the_table_of_peaks(
    tmp_path: Path, instance: str, kind: str, name: str, tflops: float
) -> None:
    from bench.backends import peaks

    root = neuron_bed.machine(tmp_path / "root", instance=instance)
    probe = found(root, lambda: ("NEURON", kind))
    assert probe.device_model == name
    peak = peaks.load().find(probe.device_model, "bf16")
    assert peak is not None
    assert peak.flops_per_s == pytest.approx(tflops * 1e12)


def test_a_core_of_an_unknown_machine_has_the_name_of_its_kind(tmp_path: Path) -> None:
    neuron_bed.write(tmp_path / "dev/neuron0", "")
    assert found(tmp_path, lambda: ("NEURON", "NC_v2")).device_model == "NC_v2"


def test_it_is_opened_in_the_environment_of_a_plain_case(tmp_path: Path) -> None:
    import os

    seen: dict[str, str] = {}

    def opened() -> tuple[str, str]:
        seen.update(os.environ)
        return "NEURON", "NC_v2"

    found(neuron_bed.machine(tmp_path / "root"), opened)
    assert seen["PJRT_DEVICE"] == "NEURON"
    assert seen["NEURON_CC_FLAGS"] == "--auto-cast=none"
    assert seen["NEURON_RT_VISIBLE_CORES"] == "0"


def test_the_cores_that_the_user_shows_are_those_that_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {"NEURON_RT_VISIBLE_CORES": "1"})
    assert found(neuron_bed.machine(tmp_path / "root"), lambda: ("NEURON", "")).device_count == 1


def test_of_logical_cores_there_are_half_as_many_as_of_physical_ones(tmp_path: Path) -> None:
    root = neuron_bed.machine(tmp_path / "root", instance="trn2.3xlarge", cores=8)
    assert found(root, lambda: ("NEURON", "NC_v3d")).device_count == 4


def test_cores_that_nothing_counts_are_warned_of_and_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuron_cores, "neuron_ls", lambda: None)
    root = neuron_bed.machine(tmp_path / "root", cores=0)
    probe = found(root, lambda: ("NEURON", "NC_v2"), **XLA, neuronx_cc="2.24.1")
    assert probe.warnings == [neuron_cores.UNTOLD]
    assert probe.facts["physical_cores"] is None
    two = Knobs.model_validate({"processes": 2})
    assert list(neuron_refusals.on_cores(two, probe)) == []


@pytest.mark.parametrize(
    ("written", "word"), [("all", "is no list of cores"), ("6-4", "ends before it begins")]
)
def test_what_is_no_list_of_cores_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, word: str
) -> None:
    monkeypatch.setattr("os.environ", {"NEURON_RT_VISIBLE_CORES": written})
    probe = found(neuron_bed.machine(tmp_path / "root"), never)
    assert not probe.available
    assert f"NEURON_RT_VISIBLE_CORES={written}" in (probe.reason or "")
    assert word in (probe.reason or "")


def test_a_compiler_that_is_missing_is_warned_of(tmp_path: Path) -> None:
    (warning,) = found(neuron_bed.machine(tmp_path / "root"), lambda: ("NEURON", "")).warnings
    assert "neuronx-cc is not installed" in warning


def test_a_device_of_another_type_is_never_taken_for_a_neuron_core(tmp_path: Path) -> None:
    probe = found(neuron_bed.machine(tmp_path / "root"), lambda: ("CPU", "CPU"))
    assert not probe.available
    assert "type CPU in place of NEURON" in (probe.reason or "")


def test_a_core_that_is_busy_is_unavailable_with_the_runtimes_first_line(tmp_path: Path) -> None:
    def busy() -> tuple[str, str]:
        raise RuntimeError("Logical Neuron Core(s) not available\n  at nrt_init")

    probe = found(neuron_bed.machine(tmp_path / "root"), busy)
    assert not probe.available
    assert "Logical Neuron Core(s) not available" in (probe.reason or "")
    assert "nrt_init" not in (probe.reason or "")
    assert "neuron-ls" in (probe.remedy or "")


def trainium2(root: Path) -> Path:
    return neuron_bed.machine(root, instance="trn2.3xlarge", cores=8)


def natively(root: Path, opened: Callable[[], Opened] | None = None, **versions: str) -> Probe:
    answer = opened or (lambda: Opened(cores=4, name="trn2", computed=2.0))
    return NeuronBackend(root, distributions(**NATIVE, **versions), never, answer).probe()


class TestNative:
    def test_an_open_core_is_described_with_flavour_software_and_machine(
        self, tmp_path: Path
    ) -> None:
        probe = natively(trainium2(tmp_path / "root"), neuronx_cc="2.26.1")
        assert probe.available
        assert (probe.device_model, probe.device_count) == ("Trainium2", 4)
        assert probe.flavour == "native"
        assert probe.preferred == neuron_machine.PREFERRED
        assert not probe.simulated
        assert probe.facts == {
            "torch_neuronx": "2.14.3.0.1",
            "neuronx_cc": "2.26.1",
            "instance": "trn2.3xlarge",
            "family": "trn2",
            "cores_shown": None,
            "physical_cores": 8,
        }
        assert probe.warnings == []

    @pytest.mark.parametrize("lnc", [1, 2])
    @pytest.mark.parametrize(("instance", "tflops"), [("trn2.3xlarge", 667), ("trn3.x", 671)])
    def test_its_name_with_the_logical_core_is_one_that_the_table_of_peaks_knows(
        self, tmp_path: Path, instance: str, tflops: float, lnc: int
    ) -> None:
        from bench.backends import peaks

        probe = natively(neuron_bed.machine(tmp_path / "root", instance=instance))
        peak = peaks.load().find(f"{probe.device_model} LNC={lnc}", "bf16")
        assert peak is not None
        assert peak.flops_per_s == pytest.approx(tflops * 1e12 * lnc / 8)

    def test_a_machine_that_does_not_tell_its_type_is_named_by_the_runtime(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev/neuron0").touch()
        probe = natively(tmp_path)
        assert (probe.device_model, probe.facts["family"]) == ("Trainium2", "trn2")
        # Four logical ones were opened, of two each, and no file counts them.
        assert probe.facts["physical_cores"] == 8

    def test_it_is_opened_in_the_environment_of_a_plain_case_on_all_cores(
        self, tmp_path: Path
    ) -> None:
        import os

        seen: dict[str, str] = {}

        def opened() -> Opened:
            seen.update(os.environ)
            return Opened(4, "trn2", 2.0)

        natively(trainium2(tmp_path / "root"), opened)
        assert seen["NEURON_CC_FLAGS"] == "--auto-cast=none"
        assert seen["TORCH_NEURONX_DISABLE_FALLBACK_EXECUTION"] == "1"
        assert "NEURON_RT_VISIBLE_CORES" not in seen

    @pytest.mark.parametrize("instance", ["inf2.xlarge", "trn1.32xlarge"])
    def test_on_an_older_chip_it_is_refused_with_the_other_flavour_as_the_remedy(
        self, tmp_path: Path, instance: str
    ) -> None:
        probe = unavailable(neuron_bed.machine(tmp_path / "root", instance=instance), **NATIVE)
        assert probe.flavour == "native"
        assert "drives Trainium2 and Trainium3" in (probe.reason or "")
        assert "torch-neuronx==2.9.*" in (probe.remedy or "")

    @pytest.mark.parametrize("version", ["2.10.0", "2.12.1.0.5"])
    def test_one_before_the_first_release_is_named(self, tmp_path: Path, version: str) -> None:
        root = trainium2(tmp_path / "root")
        probe = unavailable(root, torch_neuronx=version, torch="2.12.0")
        assert probe.flavour == "native"
        assert "older than 2.13" in (probe.reason or "")

    def test_a_torch_of_another_minor_version_is_named(self, tmp_path: Path) -> None:
        root = trainium2(tmp_path / "root")
        probe = unavailable(root, torch_neuronx="2.13.3.0.5", torch="2.14.0")
        assert "torch 2.14.0 is installed beside torch-neuronx 2.13.3.0.5" in (probe.reason or "")

    def test_without_torch_it_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        none = SimpleNamespace(util=SimpleNamespace(find_spec=lambda _name: None))
        monkeypatch.setattr(neuron_native, "importlib", none)
        assert (
            unavailable(trainium2(tmp_path / "root"), **NATIVE).reason == "torch is not installed"
        )

    def test_a_core_that_is_busy_is_unavailable_with_the_runtimes_first_line(
        self, tmp_path: Path
    ) -> None:
        def busy() -> Opened:
            raise RuntimeError("Logical Neuron Core(s) not available\n  at nrt_init")

        probe = natively(trainium2(tmp_path / "root"), busy)
        assert not probe.available
        assert probe.flavour == "native"
        assert "Logical Neuron Core(s) not available" in (probe.reason or "")
        assert "nrt_init" not in (probe.reason or "")
        assert "NEURON_RT_VISIBLE_CORES" in (probe.remedy or "")

    def test_a_list_of_cores_that_is_none_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.environ", {"NEURON_RT_VISIBLE_CORES": "0-"})
        probe = unavailable(trainium2(tmp_path / "root"), **NATIVE)
        assert "NEURON_RT_VISIBLE_CORES=0- is no list of cores" in (probe.reason or "")

    def test_a_core_that_cannot_add_is_not_used(self, tmp_path: Path) -> None:
        probe = natively(trainium2(tmp_path / "root"), lambda: Opened(4, "trn2", 0.0))
        assert not probe.available
        assert "computes 1 + 1 = 0.0" in (probe.reason or "")

    def test_a_compiler_that_is_missing_is_warned_of(self, tmp_path: Path) -> None:
        (warning,) = natively(trainium2(tmp_path / "root")).warnings
        assert "neuronx-cc is not installed" in warning

    def test_simulated_it_says_so_has_no_peak_and_is_never_the_default(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from bench.backends import peaks

        root = trainium2(tmp_path / "root")
        monkeypatch.setattr("os.environ", {neuron_machine.SIMULATED: str(root)})
        opened = Opened(4, "trn2", 2.0)
        backend = NeuronBackend(None, distributions(**NATIVE), never, lambda: opened)
        probe = backend.probe()
        assert probe.available
        assert probe.simulated
        assert (probe.device_model or "").startswith("simulated NeuronCore (")
        assert probe.flavour == "native, simulated"
        assert peaks.load().find(f"{probe.device_model} LNC=2", "bf16") is None
        assert probe.preferred < 0


class TestSimulated:
    @pytest.fixture
    def probe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Probe:
        root = neuron_bed.machine(tmp_path / "root")
        monkeypatch.setattr("os.environ", {neuron_machine.SIMULATED: str(root)})
        return NeuronBackend(None, distributions(**XLA), lambda: ("CPU", "CPU")).probe()

    def test_one_that_cannot_be_opened_is_a_simulated_one_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = neuron_bed.machine(tmp_path / "root")
        monkeypatch.setattr("os.environ", {neuron_machine.SIMULATED: str(root)})
        for versions in ({}, XLA):
            probe = NeuronBackend(None, distributions(**versions), lambda: ("TPU", "v4")).probe()
            assert not probe.available
            assert probe.simulated

    def test_it_says_so_in_every_place_that_a_row_shows(self, probe: Probe) -> None:
        assert probe.available
        assert probe.simulated
        assert (probe.device_model or "").startswith("simulated NeuronCore (")
        assert probe.flavour == "xla, simulated"

    def test_it_has_no_peak_and_is_never_the_default(self, probe: Probe) -> None:
        from bench.backends import peaks

        assert peaks.load().find(probe.device_model, "bf16") is None
        assert probe.preferred < 0

    def test_a_real_core_behind_a_pretended_machine_is_not_believed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = neuron_bed.machine(tmp_path / "other")
        monkeypatch.setattr("os.environ", {neuron_machine.SIMULATED: str(root)})
        opened = NeuronBackend(None, distributions(**XLA), lambda: ("NEURON", "NC_v2"))
        assert "type NEURON in place of CPU" in (opened.probe().reason or "")
