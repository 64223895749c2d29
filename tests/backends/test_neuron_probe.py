"""What the probe says of the two things called torch-neuronx, of the device, and of neither."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.backends import neuron, xla
from bench.backends.base import Probe
from bench.backends.neuron import NeuronBackend
from tests.backends import neuron_bed

XLA, NATIVE = {"torch_neuronx": "2.9.0.2.15.32035"}, {"torch_neuronx": "2.14.3.0.1"}


def distributions(**versions: str) -> Callable[[str], str]:
    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    return version


def unavailable(root: Path, **versions: str) -> Probe:
    probe = NeuronBackend(root, distributions(**versions), never).probe()
    assert not probe.available
    assert probe.backend == "neuron"
    assert probe.reason
    assert probe.remedy
    assert "\n" not in probe.reason + probe.remedy
    return probe


def never() -> tuple[str, str]:
    raise AssertionError("the device was opened")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the probe change an environment of its own, and find an installation that is whole."""
    monkeypatch.setattr("os.environ", {})
    monkeypatch.setattr(xla, "installation_problem", lambda: None)


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
    assert "https://pip.repos.neuron.amazonaws.com" in (probe.remedy or "")
    assert probe.flavour is None


def test_a_device_without_software_is_told_apart(tmp_path: Path) -> None:
    probe = unavailable(neuron_bed.machine(tmp_path / "root"))
    assert "torch-neuronx is not installed" in (probe.reason or "")
    assert "torch-neuronx==2.9.*" in (probe.remedy or "")


@pytest.mark.parametrize("version", ["2.13.3.0.5", "2.14.3.0.1"])
def test_the_native_flavour_is_known_and_said_not_to_be_driven(
    tmp_path: Path, version: str
) -> None:
    probe = unavailable(neuron_bed.machine(tmp_path / "root"), torch_neuronx=version)
    assert probe.flavour == "native"
    assert f"torch-neuronx {version} is TorchNeuron, the native flavour" in (probe.reason or "")
    assert "drives the XLA flavour" in (probe.reason or "")


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
    assert "pip.repos.neuron" in (probe.remedy or "")


def found(root: Path, opened: Callable[[], tuple[str, str]], **versions: str) -> Probe:
    return NeuronBackend(root, distributions(**(versions or XLA)), opened).probe()


def test_an_open_core_is_described_with_flavour_software_and_machine(tmp_path: Path) -> None:
    root = neuron_bed.machine(tmp_path / "root")
    probe = found(root, lambda: ("NEURON", "NC_v2"), **XLA, neuronx_cc="2.24.1")
    assert probe.available
    assert (probe.device_model, probe.device_count, probe.flavour) == ("NC_v2", 2, "xla")
    assert probe.preferred == neuron.PREFERRED
    assert not probe.simulated
    assert probe.facts == {
        "pjrt": "NEURON",
        "torch_neuronx": "2.9.0.2.15.32035",
        "neuronx_cc": "2.24.1",
        "libneuronxla": None,
        "instance": "inf2.xlarge",
        "family": "inf2",
    }
    assert probe.warnings == []


def test_its_name_is_one_that_the_table_of_peaks_knows(tmp_path: Path) -> None:
    from bench.backends import peaks

    probe = found(neuron_bed.machine(tmp_path / "root"), lambda: ("NEURON", "NC_v2"))
    peak = peaks.load().find(probe.device_model, "bf16")
    assert peak is not None
    assert peak.flops_per_s == 95e12


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


class TestSimulated:
    @pytest.fixture
    def probe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Probe:
        root = neuron_bed.machine(tmp_path / "root")
        monkeypatch.setattr("os.environ", {neuron.SIMULATED: str(root)})
        return NeuronBackend(None, distributions(**XLA), lambda: ("CPU", "CPU")).probe()

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
        monkeypatch.setattr("os.environ", {neuron.SIMULATED: str(root)})
        opened = NeuronBackend(None, distributions(**XLA), lambda: ("NEURON", "NC_v2"))
        assert "type NEURON in place of CPU" in (opened.probe().reason or "")
