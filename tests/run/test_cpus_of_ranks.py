"""Ranks that compute on the host are kept on CPUs of their own where there is room for them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from bench.backends import host
from bench.backends.base import Probe
from bench.results.record import Keys
from bench.run.launching import cpus_of_ranks
from bench.run.plan import Planned
from tests.builders import a_case
from tests.run.driver import Bench


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cores", lambda _devices=None: [[0, 4], [1, 5], [2, 6], [3, 7]])
    monkeypatch.setattr(host, "cpus_allowed", lambda: frozenset(range(8)))


def kept(backend: str = "cpu", **knobs: Any) -> tuple[tuple[int, ...], ...] | None:
    keys = Keys(work="w", series="s", fingerprint="f")
    probe = Probe(backend=backend, available=True, device_count=4)
    return cpus_of_ranks(Planned(a_case(knobs=knobs), backend, probe, 0, keys))


@pytest.mark.usefixtures("four_cores")
class TestPlan:
    def test_each_has_an_equal_share_of_whole_cores(self) -> None:
        assert kept(processes=2) == ((0, 1, 4, 5), (2, 3, 6, 7))
        assert kept(processes=4, nodes=2) == ((0, 1, 4, 5), (2, 3, 6, 7))

    def test_one_rank_goes_where_the_system_has_it(self) -> None:
        assert kept() is None
        assert kept(processes=2, nodes=2) is None

    def test_more_threads_than_a_share_has_cpus_are_not_squeezed_into_it(self) -> None:
        assert kept(processes=2, threads=4) is not None
        assert kept(processes=2, threads=5) is None

    def test_where_it_is_not_known_what_computes_on_the_host_the_system_chooses(self) -> None:
        assert kept(processes=2, compile="inductor") is None
        assert kept("cuda", processes=2) is None


@pytest.mark.torch
@pytest.mark.slow
def test_where_each_rank_ran_is_read_back_and_recorded(bench: Bench) -> None:
    if host.cpus_visible() < 2 or not hasattr(os, "sched_setaffinity"):
        pytest.skip("ranks cannot have CPUs of their own here")
    finished = bench.run(bench.scenario("pair"), "--processes", "2", backend="cpu")
    assert finished.code == 0, finished.stderr
    (record,) = bench.records()
    first, second = record.launches[0].ranks
    assert (first.local_rank, second.local_rank) == (0, 1)
    assert not set(first.cpus) & set(second.cpus)
    assert len(first.cpus) == len(second.cpus) == len(host.shares(2)[0])  # type: ignore[index]
    threads = str(max(1, host.cpus_visible() // 2))
    assert first.omp_num_threads == second.omp_num_threads == threads
