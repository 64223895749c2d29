"""What a record says of where a case ran: what is on the list, and nothing that gives it away."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from bench.backends import host
from bench.run import environment

PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "GITHUB_TOKEN": "ghp_0123456789",
    "HOME": "/home/vera",
    "PATH": "/home/vera/bin:/usr/bin",
    "USER": "vera",
    "OMP_NUM_THREADS": "4",
    "XLA_FLAGS": "--xla_dump_to=/home/vera --xla_cpu_use_mkl=false",
    "NEURON_CC_FLAGS": "--cache_dir=/srv/private/neuron --model-type=transformer",
    "PJRT_DEVICE": "CPU",
}


def test_flags_are_kept_by_name_and_without_folders() -> None:
    assert environment.capture(PLANTED).flags == {
        "NEURON_CC_FLAGS": "--cache_dir=<path>/neuron --model-type=transformer",
        "OMP_NUM_THREADS": "4",
        "PJRT_DEVICE": "CPU",
        "XLA_FLAGS": "--xla_dump_to=<path> --xla_cpu_use_mkl=false",
    }


def test_flags_that_may_change_a_number_are_told_apart_from_those_that_choose_a_device() -> None:
    chosen = {
        "CUDA_VISIBLE_DEVICES": "3",
        "CCOM_SOCKET_IFNAME": "eth0",
        "GLOO_SOCKET_IFNAME": "eth0",
        "NCCL_SOCKET_IFNAME": "eth0",
        "NEURON_RT_VISIBLE_CORES": "0-1",
        "NEURON_FUSE_SOFTMAX": "1",
        host.STAND_IN_VARIABLE: "1",
    }
    assert environment.acting(PLANTED | chosen) == {
        host.STAND_IN_VARIABLE: "1",
        "NEURON_CC_FLAGS": PLANTED["NEURON_CC_FLAGS"],
        "NEURON_FUSE_SOFTMAX": "1",
        "OMP_NUM_THREADS": "4",
        "XLA_FLAGS": PLANTED["XLA_FLAGS"],
    }
    assert environment.acting({}) == {}


def test_a_host_or_user_in_a_flag_becomes_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "torchbox")
    monkeypatch.setenv("LOGNAME", "vera")
    found = environment.capture({"XLA_FLAGS": "--host=torchbox --owner=vera"})
    assert found.flags == {"XLA_FLAGS": "--host=<host> --owner=<user>"}


def test_nothing_else_of_the_environment_is_anywhere_in_the_record() -> None:
    text = environment.capture(PLANTED).model_dump_json()
    for secret in ("wJalrXUtnFEMI", "ghp_0123456789", "vera", "/srv", "AWS_SECRET"):
        assert secret not in text


def test_the_machine_and_its_software_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment.capture({})
    assert found.flags == {}
    assert found.versions["python"] == platform.python_version()
    assert found.versions["accelbench"]
    assert (found.os, found.machine) == (platform.system(), platform.machine())
    assert found.cpus_visible is not None
    assert found.memory_bytes is not None


def test_versions_of_another_environment_are_taken_as_they_were_found() -> None:
    assert environment.capture({}, {"torch": "2.9.0"}).versions == {"torch": "2.9.0"}


def test_outside_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = environment.capture({})
    assert (found.git_commit, found.git_dirty) == (None, None)


def test_limits_and_governor_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_bytes(b"\xff")
    (tmp_path / "cpu.max").mkdir()
    assert environment.memory_limit_bytes(tmp_path) is None
    assert environment.cpu_limit(tmp_path) is None
    assert environment.governor(tmp_path) is None
