"""What NVML tells of a GPU, from a library that behaves as the real one does."""

from __future__ import annotations

import os

import pytest

from bench.backends import nvml
from bench.backends.nvml import Gpu, Telemetry, Unseen
from tests.backends.fake_nvml import HEAT, POWER, UUID, FakeNvml, NVMLError

POWER_CAP, HW_SLOWDOWN, SW_HEAT, HW_HEAT, BRAKE = 0x04, 0x08, 0x20, 0x40, 0x80


def found(library: FakeNvml) -> Telemetry:
    return nvml.find(UUID, lambda: library)


def test_energy_is_in_joules_and_says_what_it_covers() -> None:
    library = FakeNvml(millijoules=123_456)
    energy = found(library).energy()
    assert energy.joules == 123.456
    assert energy.period_s == 0.1
    assert "board" in (energy.source or "")
    assert not energy.machine_wide


def test_a_gpu_without_the_counter_gives_a_reason_and_no_zero() -> None:
    energy = found(FakeNvml(unsupported={"nvmlDeviceGetTotalEnergyConsumption"})).energy()
    assert energy.joules is None
    assert "Not Supported" in (energy.reason or "")


@pytest.mark.parametrize("bit", [HW_SLOWDOWN, SW_HEAT, HW_HEAT, BRAKE])
def test_a_reason_that_is_met_raises_its_count(bit: int) -> None:
    library = FakeNvml()
    gpu = found(library)
    before = gpu.clocks()
    library.bits |= bit
    after = gpu.clocks()
    assert before is not None
    assert after is not None
    assert [r for r, n in after.throttled.items() if n > before.throttled[r]]
    assert after.mhz == 1980


@pytest.mark.parametrize("bits", [0x0, 0x1, 0x2, POWER_CAP, 0x10, 0x100])
def test_idling_a_chosen_clock_and_the_own_power_limit_are_no_disturbance(bits: int) -> None:
    library = FakeNvml(bits=bits)
    gpu = found(library)
    rates = [gpu.clocks() for _ in range(3)]
    assert all(rate is not None and not any(rate.throttled.values()) for rate in rates)


def test_heat_between_two_readings_shows_in_the_drivers_own_time() -> None:
    library = FakeNvml()
    gpu = found(library)
    before = gpu.clocks()
    library.nanoseconds[HEAT] = 7_000_000
    after = gpu.clocks()
    assert before is not None
    assert after is not None
    (met,) = [r for r, n in after.throttled.items() if n > before.throttled[r]]
    assert "too hot" in met


def test_a_gpu_that_tells_no_clock_gives_null() -> None:
    library = FakeNvml(
        unsupported={
            "nvmlDeviceGetClockInfo",
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetFieldValues",
        }
    )
    assert found(library).clocks() is None


def test_time_at_the_power_limit_counts_from_the_opening() -> None:
    library = FakeNvml(nanoseconds={POWER: 5_000_000_000, HEAT: 0})
    gpu = found(library)
    library.nanoseconds[POWER] = 7_500_000_000
    assert gpu.facts()["power_capped_s"] == 2.5


def test_facts_carry_limits_in_watts_and_null_where_nothing_is_told() -> None:
    facts = found(FakeNvml(unsupported={"nvmlDeviceGetEccMode"})).facts()
    assert (facts["power_limit_w"], facts["power_limit_default_w"]) == (700.0, 700.0)
    assert facts["driver"] == "580.65.06"
    assert facts["clock_limit_mhz"] == 1980
    assert facts["ecc"] is None
    assert facts["mig"] is False


class TestOthers:
    def test_our_own_process_is_no_other(self) -> None:
        assert found(FakeNvml(pids=[os.getpid()])).co_tenants() == []

    def test_an_other_beside_ours_is_told_with_what_helps(self) -> None:
        (told,) = found(FakeNvml(pids=[os.getpid(), 7])).co_tenants()
        assert "one other process" in told
        assert "end them" in told

    def test_in_a_container_one_of_the_numbers_is_ours(self) -> None:
        """NVML gives the host's process numbers, among which ours does not turn up."""
        assert found(FakeNvml(pids=[4_000_001])).co_tenants() == []
        (told,) = found(FakeNvml(pids=[4_000_001, 4_000_002, 4_000_003])).co_tenants()
        assert "2 other processes" in told

    def test_nothing_listed_is_nobody(self) -> None:
        unsupported = {"nvmlDeviceGetComputeRunningProcesses"}
        assert found(FakeNvml()).co_tenants() == []
        assert found(FakeNvml(unsupported=unsupported)).co_tenants() == []


class TestWarnings:
    def test_a_healthy_gpu_has_none(self) -> None:
        assert found(FakeNvml()).warnings() == []

    def test_persistence_mode_names_its_remedy(self) -> None:
        (told,) = found(FakeNvml(persistence=0)).warnings()
        assert "nvidia-smi -pm 1" in told

    def test_a_lowered_power_limit_names_both_and_the_remedy(self) -> None:
        (told,) = found(FakeNvml(limit_mw=400_000)).warnings()
        assert "400 W" in told
        assert "nvidia-smi -pl 700" in told

    def test_a_raised_power_limit_is_none(self) -> None:
        assert found(FakeNvml(limit_mw=800_000)).warnings() == []


class TestMig:
    def test_an_instance_is_found_by_its_own_prefix(self) -> None:
        library = FakeNvml(uuids={f"MIG-{UUID}": "instance"}, mig_mode=1)
        gpu = found(library)
        assert gpu.facts()["mig"] is True
        assert gpu.clocks() is not None

    def test_an_instance_has_no_energy_of_its_own(self) -> None:
        for uuids in ({f"MIG-{UUID}": "instance"}, {f"GPU-{UUID}": "board"}):
            energy = found(FakeNvml(uuids=uuids, mig_mode=1)).energy()
            assert energy.joules is None
            assert "MIG" in (energy.reason or "")

    def test_processes_of_other_instances_are_not_ours_to_complain_of(self) -> None:
        mine = FakeNvml(
            uuids={f"MIG-{UUID}": "instance"}, pids=[1, 2, 3], instance_pids=[os.getpid()]
        )
        assert found(mine).co_tenants() == []
        assert found(FakeNvml(mig_mode=1, pids=[1, 2, 3])).co_tenants() == []

    def test_it_is_warned_of(self) -> None:
        assert any("MIG" in w for w in found(FakeNvml(mig_mode=1)).warnings())


class TestUnseen:
    def test_without_the_package_every_figure_says_so(self) -> None:
        def absent() -> None:
            raise ImportError("no module named pynvml")

        gpu = nvml.find(UUID, absent)
        assert isinstance(gpu, Unseen)
        assert "pip install nvidia-ml-py" in (gpu.energy().reason or "")
        assert gpu.clocks() is None
        assert gpu.co_tenants() == []
        assert "pip install nvidia-ml-py" in gpu.warnings()[0]
        gpu.close()

    def test_a_driver_that_does_not_answer_is_a_reason(self) -> None:
        gpu = found(FakeNvml(broken=NVMLError("Driver Not Loaded")))
        assert "Driver Not Loaded" in (gpu.energy().reason or "")

    def test_a_gpu_that_is_not_there_is_a_reason(self) -> None:
        assert "Not Found" in (found(FakeNvml(uuids={})).energy().reason or "")


def test_what_was_opened_is_released() -> None:
    library = FakeNvml()
    gpu = found(library)
    assert isinstance(gpu, Gpu)
    gpu.close()
    assert library.open == 0


def test_nothing_is_ever_set() -> None:
    library = FakeNvml()
    gpu = found(library)
    for ask in (gpu.energy, gpu.clocks, gpu.co_tenants, gpu.facts, gpu.warnings):
        ask()
    assert library.calls
    assert not [name for name in library.calls if "Set" in name or "Reset" in name]
