"""What the probe makes of torch's and the driver's answers; torch is a fake."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from bench.backends import async_io, cuda_probe, nvml
from bench.backends.base import Probe
from tests.backends.fake_nvml import UUID, FakeNvml


@pytest.fixture(autouse=True)
def _nobody_opens_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take this process for one with a GPU from then on."""
    monkeypatch.setattr(async_io, "missing", lambda device_type: f"asked for {device_type}")


class FakeTensor:
    def __init__(self, value: float) -> None:
        self._value = value

    def __add__(self, other: FakeTensor) -> FakeTensor:
        return FakeTensor(self._value + other._value)

    def cpu(self) -> float:
        return self._value


def a_gpu(name: str = "NVIDIA H200", major: int = 9, minor: int = 0) -> Any:
    return SimpleNamespace(
        name=name,
        major=major,
        minor=minor,
        total_memory=2**37,
        uuid=UUID,
        gcnArchName="gfx942",
    )


def fake_torch(
    *gpus: Any,
    cuda: str | None = "13.2",
    hip: str | None = None,
    error: Exception | None = None,
    one: float = 1.0,
    nccl: bool = True,
) -> Any:
    def init() -> None:
        if error is not None:
            raise error

    return SimpleNamespace(
        __version__="2.15.0",
        version=SimpleNamespace(cuda=cuda, hip=hip),
        cuda=SimpleNamespace(
            init=init,
            device_count=lambda: len(gpus),
            get_device_properties=lambda index: gpus[index],
            nccl=SimpleNamespace(version=lambda: (2, 30, 7)),
        ),
        ones=lambda _size, device: FakeTensor(one if device == "cuda" else math.nan),
        backends=SimpleNamespace(cudnn=SimpleNamespace(version=lambda: 92600)),
        distributed=SimpleNamespace(is_available=lambda: True, is_nccl_available=lambda: nccl),
    )


def ask(torch: Any, library: FakeNvml | None = None) -> Probe:
    driver = library or FakeNvml()
    return cuda_probe.ask(torch, lambda uuid: nvml.find(uuid, lambda: driver))


def test_a_gpu_is_available_and_preferred_to_the_hosts_processors() -> None:
    probe = ask(fake_torch(a_gpu(), a_gpu()))
    assert probe.available
    assert (probe.device_model, probe.device_count, probe.flavour) == ("NVIDIA H200", 2, "cuda")
    assert probe.preferred > 50
    assert probe.warnings == []


def test_the_facts_are_what_refusals_and_readers_need() -> None:
    facts = ask(fake_torch(a_gpu())).facts
    assert facts["capability"] == [9, 0]
    assert (facts["cuda"], facts["driver"], facts["nccl"]) == ("13.2", "580.65.06", "2.30.7")
    assert (facts["power_limit_w"], facts["ecc"], facts["mig"]) == (700.0, True, False)
    assert facts["arch"] is None
    assert isinstance(facts["torchao"], bool)
    assert facts["async_io"] == "asked for cuda"
    assert facts["alike"] is True
    assert ask(fake_torch(a_gpu(), a_gpu("NVIDIA L4"))).facts["alike"] is False


def test_the_probe_survives_the_journey_to_the_parent() -> None:
    probe = ask(fake_torch(a_gpu()))
    assert Probe.model_validate_json(probe.model_dump_json()) == probe


def test_the_drivers_warnings_become_the_probes() -> None:
    (told,) = ask(fake_torch(a_gpu()), FakeNvml(persistence=0)).warnings
    assert "persistence mode" in told


def test_a_build_without_cuda_is_told_with_what_to_install() -> None:
    probe = ask(fake_torch(cuda=None))
    assert not probe.available
    assert "a build without CUDA" in (probe.reason or "")
    assert "pytorch.org" in (probe.remedy or "")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nUpdate"),
        AssertionError("Torch not compiled with CUDA enabled"),
    ],
)
def test_a_device_that_does_not_open_gives_torchs_first_line(error: Exception) -> None:
    probe = ask(fake_torch(a_gpu(), error=error))
    assert not probe.available
    assert str(error).splitlines()[0] in (probe.reason or "")
    assert "\n" not in (probe.reason or "") + (probe.remedy or "")


def test_a_device_that_does_not_add_is_unavailable() -> None:
    probe = ask(fake_torch(a_gpu(), one=0.0))
    assert not probe.available
    assert "1 + 1 = 0.0" in (probe.reason or "")


def test_amds_gpus_come_as_another_flavour_without_nvml() -> None:
    library = FakeNvml()
    probe = ask(fake_torch(a_gpu("AMD Instinct MI300X", 9, 4), cuda=None, hip="7.1"), library)
    assert probe.available
    assert (probe.flavour, probe.device_model) == ("rocm", "AMD Instinct MI300X")
    assert probe.facts["capability"] is None
    assert probe.facts["arch"] == "gfx942"
    assert library.calls == []
    assert any("energy" in warning and "AMD" in warning for warning in probe.warnings)


def test_a_torch_without_nccl_says_so() -> None:
    assert ask(fake_torch(a_gpu(), nccl=False)).facts["nccl"] is None


def test_nvml_is_released() -> None:
    library = FakeNvml()
    ask(fake_torch(a_gpu()), library)
    assert library.open == 0


def test_a_variable_that_waits_for_every_kernel_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    (told,) = ask(fake_torch(a_gpu())).warnings
    assert "unset" in told


def test_forbidden_tf32_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(fake_torch(a_gpu())).facts["tf32_forbidden"] is False
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert ask(fake_torch(a_gpu())).facts["tf32_forbidden"] is True
