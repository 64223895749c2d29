"""Which CPUs a launch may use, and in which order they lie on different cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.backends import host


@pytest.fixture(autouse=True)
def six_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cpus_allowed", lambda: frozenset({0, 1, 2, 3, 6, 7}))


def share_a_core(devices: Path, *pairs: tuple[int, int]) -> None:
    for pair in pairs:
        for cpu in pair:
            topology = devices / f"cpu{cpu}" / "topology"
            topology.mkdir(parents=True)
            (topology / "thread_siblings_list").write_text(f"{pair[0]},{pair[1]}\n")


def test_one_cpu_of_each_core_comes_first(tmp_path: Path) -> None:
    share_a_core(tmp_path, (0, 1), (2, 3), (6, 7))
    assert host.cpus_by_core(tmp_path) == [0, 2, 6, 1, 3, 7]


def test_of_a_core_that_is_half_ours_the_one_we_may_use(tmp_path: Path) -> None:
    share_a_core(tmp_path, (0, 4), (1, 5), (2, 6), (3, 7))
    assert host.cpus_by_core(tmp_path) == [0, 1, 2, 3, 6, 7]


def test_where_no_core_is_told_each_is_its_own(tmp_path: Path) -> None:
    assert host.cpus_by_core(tmp_path) == [0, 1, 2, 3, 6, 7]


class TestShares:
    def test_ranks_get_whole_cores_and_as_many_each(self, tmp_path: Path) -> None:
        share_a_core(tmp_path, (0, 1), (2, 3), (6, 7))
        assert host.shares(1, tmp_path) == [[0, 1, 2, 3, 6, 7]]
        assert host.shares(2, tmp_path) == [[0, 1], [2, 3]]
        assert host.shares(3, tmp_path) == [[0, 1], [2, 3], [6, 7]]

    def test_where_cores_are_too_few_ranks_share_one_and_no_cpu(self, tmp_path: Path) -> None:
        share_a_core(tmp_path, (0, 1), (2, 3), (6, 7))
        assert host.shares(5, tmp_path) == [[0], [1], [2], [3], [6]]

    def test_siblings_far_apart_stay_together(self, tmp_path: Path) -> None:
        share_a_core(tmp_path, (0, 6), (1, 7), (2, 3))
        assert host.shares(3, tmp_path) == [[0, 6], [1, 7], [2, 3]]

    def test_more_ranks_than_cpus_have_none(self, tmp_path: Path) -> None:
        assert host.shares(7, tmp_path) is None


def test_a_machine_is_told_from_others_where_the_system_does(tmp_path: Path) -> None:
    assert host.boot_id(tmp_path) is None
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("cedbe66b\n", encoding="ascii")
    assert host.boot_id(tmp_path) == "cedbe66b"
