"""The planning half of XLA: what it decides without torch, from canned answers of a probe."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.backends import host, xla
from bench.backends.base import Precompilation, Probe, Refusal
from bench.scenarios.schema import Knobs

BACKEND = xla.XlaBackend()


def probe(pjrt: str) -> Probe:
    return Probe(backend="xla", available=True, flavour=pjrt, facts={"pjrt": pjrt})


ON_CPU, ON_TPU = probe("CPU"), probe("TPU")


def knobs(**values: Any) -> Knobs:
    return Knobs.model_validate(values)


def refused(case: Knobs, found: Probe = ON_CPU) -> dict[str, str]:
    return {refusal.knob: refusal.reason for refusal in BACKEND.refusals(case, found)}


def test_planning_imports_neither_torch_nor_torch_xla() -> None:
    code = (
        "import sys; import bench.backends.xla, bench.backends.cuda, bench.backends.neuron; "
        "sys.exit(any(name.partition('.')[0] in ('torch', 'torch_xla') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_ordinary_case_is_refused_nothing() -> None:
    assert refused(knobs()) == {}
    assert refused(knobs(), ON_TPU) == {}
    assert (
        refused(knobs(loader={"batches_per_execution": 4, "prefetch": 2, "device_prefetch": 2}))
        == {}
    )
    assert refused(knobs(task="infer", precision="bf16-env", compile="openxla")) == {}
    assert refused(knobs(activation_checkpointing=True, optimizer_impl="foreach")) == {}


@pytest.mark.parametrize(
    ("values", "knob", "word"),
    [
        ({"compile": "inductor"}, "compile", "openxla"),
        ({"optimizer_impl": "fused"}, "optimizer_impl", "kernel"),
        ({"optimizer_impl": "capturable"}, "optimizer_impl", "CUDA graphs"),
        ({"precision": "tf32"}, "precision", "NVIDIA"),
        ({"precision": "amp-fp16"}, "precision", "loss scaling"),
        ({"precision": "amp-fp16", "task": "infer"}, "precision", "autocast is for bfloat16"),
        ({"precision": "fp8-rowwise"}, "precision", "float8"),
        ({"channels_last": True}, "channels_last", "layout"),
        ({"data": {"pin_memory": True}}, "data.pin_memory", "page-locked"),
        ({"engine": "ddp"}, "engine", "process group"),
        (
            {"compile": "openxla", "loader": {"batches_per_execution": 2}},
            "loader.batches_per_execution",
            "executed as they are called",
        ),
        ({"data": {"source": "device"}, "loader": {"prefetch": 2}}, "loader.prefetch", "already"),
        (
            {"data": {"source": "device"}, "loader": {"device_prefetch": 2}},
            "loader.device_prefetch",
            "already",
        ),
        (
            {"data": {"source": "device"}, "loader": {"transfer_threads": 2}},
            "loader.transfer_threads",
            "already",
        ),
    ],
)
def test_what_xla_cannot_honour_is_refused_with_its_reason(
    values: dict[str, Any], knob: str, word: str
) -> None:
    found = refused(knobs(**values))
    assert list(found) == [knob]
    assert word in found[knob]


def test_two_processes_are_refused_for_a_reason_of_the_device() -> None:
    found = refused(knobs(processes=2), ON_CPU)
    assert list(found) == ["processes", "engine"]
    assert "do not communicate" in found["processes"]
    assert "engine=spmd" in found["processes"]


def test_on_a_tpu_every_chip_has_a_process_or_one_process_has_all() -> None:
    two = ON_TPU.model_copy(update={"device_count": 2})
    assert refused(knobs(processes=2), two) == {}
    assert refused(knobs(processes=4, nodes=2), two) == {}
    for case in (knobs(processes=3), knobs(processes=4), knobs(processes=2, nodes=2)):
        reason = refused(case, two)["processes"]
        assert reason.endswith("a process each, and here these are 2")
    assert list(refused(knobs(engine="ddp"), two)) == ["engine"]


def test_virtual_devices_are_made_for_the_case_that_asks_for_them() -> None:
    three = knobs(engine="spmd", spmd={"devices": 3})
    assert refused(three) == {}
    assert BACKEND.environment(three, ON_CPU)["CPU_NUM_DEVICES"] == "3"
    assert BACKEND.environment(knobs(), ON_CPU)["CPU_NUM_DEVICES"] == "1"
    assert "CPU_NUM_DEVICES" not in BACKEND.environment(three, ON_TPU)


def test_an_accelerator_takes_part_with_all_the_devices_that_it_has() -> None:
    four = ON_TPU.model_copy(update={"device_count": 4})
    assert refused(knobs(engine="spmd", spmd={"devices": 4}), four) == {}
    for other in (1, 2, 5):
        reason = refused(knobs(engine="spmd", spmd={"devices": other}), four)["spmd.devices"]
        assert reason.endswith("here these are 4")


def test_threads_belong_to_the_processors_and_not_to_a_tpu() -> None:
    assert refused(knobs(threads=1), ON_CPU) == {}
    assert list(refused(knobs(threads=1), ON_TPU)) == ["threads"]


def test_batches_that_lie_on_the_device_may_still_share_a_graph() -> None:
    case = knobs(data={"source": "device"}, loader={"batches_per_execution": 4})
    assert refused(case) == {}


def test_only_the_case_that_asks_for_it_stores_float32_as_bfloat16() -> None:
    asked = BACKEND.environment(knobs(precision="bf16-env"), ON_CPU)
    other = BACKEND.environment(knobs(precision="bf16"), ON_CPU)
    assert (asked["XLA_USE_BF16"], other["XLA_USE_BF16"]) == ("1", "0")
    assert asked["XLA_DOWNCAST_BF16"] == other["XLA_DOWNCAST_BF16"] == "0"


def test_the_thread_pool_is_as_large_as_asked_else_as_the_visible_cpus() -> None:
    assert BACKEND.environment(knobs(threads=3), ON_CPU)["NPROC"] == "3"
    assert BACKEND.environment(knobs(), ON_CPU)["NPROC"] == str(host.cpus_visible())
    assert "NPROC" not in BACKEND.environment(knobs(), ON_TPU)


def test_the_device_is_the_one_the_probe_opened() -> None:
    assert BACKEND.environment(knobs(), ON_CPU)["PJRT_DEVICE"] == "CPU"
    assert BACKEND.environment(knobs(), ON_TPU)["PJRT_DEVICE"] == "TPU"


def test_recomputation_keeps_its_barrier_beside_the_users_own_flags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = knobs(activation_checkpointing=True)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert "XLA_FLAGS" not in BACKEND.environment(knobs(), ON_CPU)
    option = "--xla_disable_hlo_passes="
    assert BACKEND.environment(case, ON_CPU)["XLA_FLAGS"] == f"{option}cse_barrier_expander"
    monkeypatch.setenv("XLA_FLAGS", f"{option}fusion --xla_dump_to=folder")
    flags = BACKEND.environment(case, ON_CPU)["XLA_FLAGS"]
    assert flags == f"--xla_dump_to=folder {option}fusion,cse_barrier_expander"
    assert "XLA_FLAGS" not in BACKEND.environment(case, ON_TPU)


@pytest.mark.parametrize(("per_graph", "first"), [(1, 0), (3, 2), (4, 3), (10, 9)])
def test_the_first_graph_is_one_micro_batch_short(per_graph: int, first: int) -> None:
    assert BACKEND.first_cut(knobs(loader={"batches_per_execution": per_graph})) == first


def test_waiting_batches_are_counted_in_both_queues_and_in_every_hand() -> None:
    # 16 on the host, 8 on the device, 8 in the transfer thread and 1 in the reading thread.
    assert BACKEND.prefetched(knobs()) == 33
    asked = {"prefetch": 3, "device_prefetch": 2, "transfer_threads": 2}
    assert BACKEND.prefetched(knobs(loader=asked)) == 3 + 2 + 2 * 2 + 1
    workers = {"workers": 2, "prefetch": 4}
    assert BACKEND.prefetched(knobs(loader=asked, data=workers)) == 10 + 8
    assert BACKEND.prefetched(knobs(data={"source": "device"})) == 0


def test_no_compile_cache_is_promised_where_none_can_be_read() -> None:
    assert BACKEND.compile_cache(knobs(), ON_CPU, "folder") is None
    kept = BACKEND.compile_cache(knobs(), ON_TPU, "folder")
    assert kept is not None
    assert kept["XLA_PERSISTENT_CACHE_PATH"] == "folder"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Pretend that these distributions, and no others, are installed."""
    versions = {"torch": "2.9.1", "torch_xla": "2.9.0", "timm": "1.0.20"}
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(importlib.util, "find_spec", versions.get)
    monkeypatch.setattr(xla, "_installed", lambda name: versions[name])
    return versions


def test_without_torch_xla_the_remedy_is_the_extra(installed: dict[str, str]) -> None:
    del installed["torch_xla"]
    found = BACKEND.probe()
    assert not found.available
    assert found.reason == "torch_xla is not installed"
    assert 'pip install "accelbench[xla]"' in (found.remedy or "")


def test_a_pair_of_different_versions_is_named(installed: dict[str, str]) -> None:
    installed["torch"] = "2.15.0+cpu"
    found = BACKEND.probe()
    assert not found.available
    assert "torch 2.15.0+cpu is installed beside torch_xla 2.9.0" in (found.reason or "")
    assert 'pip install "accelbench[xla]"' in (found.remedy or "")


def test_a_pair_that_is_too_old_is_named(installed: dict[str, str]) -> None:
    installed.update(torch="2.8.0", torch_xla="2.8.1")
    found = BACKEND.probe()
    assert not found.available
    assert "older than 2.9" in (found.reason or "")


def test_another_system_than_linux_is_told_so(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux only" in (BACKEND.probe().reason or "")


def test_a_device_of_another_adapter_is_not_measured_as_xla(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PJRT_DEVICE", "NEURON")
    found = BACKEND.probe()
    assert not found.available
    assert "PJRT_DEVICE=NEURON" in (found.reason or "")
    assert "unset PJRT_DEVICE" in (found.remedy or "")


def pci_device(root: Path, name: str, vendor: str, device_class: str) -> None:
    (root / name).mkdir()
    (root / name / "vendor").write_text(f"{vendor}\n")
    (root / name / "class").write_text(f"{device_class}\n")


def test_a_google_network_card_is_no_tpu(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:00:04.0", "0x1ae0", "0x020000")
    pci_device(tmp_path, "0000:00:05.0", "0x8086", "0x120000")
    assert not xla._has_tpu(tmp_path)
    pci_device(tmp_path, "0000:00:06.0", "0x1ae0", "0x120000")
    assert xla._has_tpu(tmp_path)


def test_a_tpu_is_chosen_only_with_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pci_device(tmp_path, "0000:00:06.0", "0x1ae0", "0x120000")
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    assert not xla._usable_tpu(tmp_path)
    monkeypatch.setenv("TPU_LIBRARY_PATH", os.fspath(tmp_path / "libtpu.so"))
    assert xla._usable_tpu(tmp_path)


def test_only_a_tpu_is_precompiled_for_one_case_after_the_other() -> None:
    assert BACKEND.precompilation(knobs(), ON_TPU) == Precompilation(alone=True)
    found = BACKEND.precompilation(knobs(), ON_CPU)
    assert isinstance(found, Refusal)
    assert "cannot load again" in found.reason
