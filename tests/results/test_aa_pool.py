"""The arithmetic of benchmarks/aa.py: how comparisons are drawn from a pool, and decided."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from bench.results.comparison import ComparisonVerdict
from bench.results.record import Check, CheckResult, Clocks, Launch, Noise
from benchmarks import pool as pools
from benchmarks.pool import Pool, drawn, rates, stretches
from tests.builders import a_launch, launches_of

BUSY = Noise(co_tenant_share=0.5, reasons=["other processes used 50 %"])
FAILED = Check(name="fence_waits", result=CheckResult.FAIL, evidence="40 %")


def test_blocks_of_abba_stay_whole_and_come_once() -> None:
    for places in drawn(60, 10, 200):
        assert len(places) == len(set(places)) == 10
        assert places[::2] == [place - 1 for place in places[1::2]]
        assert all(place % 2 == 0 for place in places[::2])


def test_every_block_is_drawn_about_as_often() -> None:
    counts = Counter(place for places in drawn(60, 10, 3000) for place in places)
    assert len(counts) == 60
    assert all(420 < count < 580 for count in counts.values())


def test_the_same_seed_draws_the_same() -> None:
    assert list(drawn(60, 10, 20)) == list(drawn(60, 10, 20))
    assert list(drawn(60, 10, 20)) != list(drawn(60, 10, 20, seed=1))


def test_stretches_are_all_of_them() -> None:
    found = list(stretches(60, 10))
    assert len(found) == 51
    assert found[0] == list(range(10))
    assert found[-1] == list(range(50, 60))
    assert list(stretches(4, 10)) == [[0, 1, 2, 3]]


def pool(*ratios: float, disturbed: int = 0) -> Pool:
    b = launches_of(*(100.0 * ratio for ratio in ratios))
    noisy = [x.model_copy(update={"noise": BUSY}) for x in b[:disturbed]]
    return Pool(launches_of(*[100.0] * len(ratios)), noisy + b[disturbed:])


def test_it_decides_as_the_harness_does() -> None:
    places = list(range(4))
    assert pool(1.0, 1.001, 0.999, 1.0).decision(places).verdict is ComparisonVerdict.SAME
    assert pool(0.9, 0.901, 0.899, 0.9).decision(places).verdict is ComparisonVerdict.SLOWER
    assert pool(0.9, 0.9, 1.2, 1.0).decision([0, 1]).verdict is ComparisonVerdict.INVALID


def test_a_watched_machine_that_was_disturbed_makes_it_invalid() -> None:
    busy = pool(0.9, 0.901, 0.899, 0.9, disturbed=3)
    assert busy.disturbed() == 3
    assert busy.decision(range(4)).verdict is ComparisonVerdict.INVALID
    assert busy.decision(range(4), watched=False).verdict is ComparisonVerdict.SLOWER


def test_a_suspect_launch_makes_the_comparisons_it_is_in_invalid() -> None:
    honest = launches_of(*[100.0] * 6)
    lying: list[Launch] = [a_launch(index=0, window_s=[[0.08]], audit=[FAILED]), *honest[1:]]
    mixed = Pool(honest, lying)
    assert mixed.decision(range(4)).verdict is ComparisonVerdict.INVALID
    assert mixed.decision(range(2, 6)).verdict is ComparisonVerdict.SAME


def test_its_figures() -> None:
    found = pool(1.0, 1.1)
    assert found.ratios() == [pytest.approx(1.0), pytest.approx(1.1)]
    assert found.scatter() == pytest.approx(0.0674, abs=1e-4)


def test_rates_are_shares_of_all_verdicts() -> None:
    decisions = [pool(*[ratio] * 4).decision(range(4)) for ratio in (1.0, 1.0, 1.0, 0.9)]
    assert rates(decisions) == {
        "SAME": 0.75,
        "FASTER": 0.0,
        "SLOWER": 0.25,
        "AMBIGUOUS": 0.0,
        "INVALID": 0.0,
    }


@pytest.fixture
def aa(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the script as it is run: its neighbours lie beside it."""
    monkeypatch.syspath_prepend(str(Path(pools.__file__).parent))
    return importlib.import_module("benchmarks.aa")


@pytest.mark.parametrize("kind", ["EQUAL", "LOADED"])
def test_equal_sides_are_held_to_their_ratios_alone_where_all_is_invalid(
    aa: ModuleType, kind: str
) -> None:
    slower = pool(0.9, 0.901, 0.899, 0.9, disturbed=4)
    lines, within = aa.judged(aa.Part(aa.Kind[kind], slower, []), 20)
    assert not within
    assert "  called FASTER or SLOWER: 0.0% (at most 5%): holds" in lines
    assert (
        "  called FASTER or SLOWER by their ratios alone: 100.0% (at most 5%): DOES NOT HOLD"
        in lines
    )


def slowed(pool: Pool, pairs: int) -> Pool:
    """Return the pool with a neighbour on the core, of the B side, in so many pairs."""
    clocks = Clocks(source=None, calculation_us_min=75.0, calculation_us_max=125.0)
    b = [x.model_copy(update={"clocks": clocks}) for x in pool.b[:pairs]]
    return Pool(pool.a, b + list(pool.b[pairs:]))


def test_scatter_is_held_against_the_command_only_where_the_machine_was_quiet(
    aa: ModuleType,
) -> None:
    scattered = pool(0.96, 1.05, 0.97, 1.04, 0.95, 1.06)
    for pairs, within, said in [(3, False, "DOES NOT HOLD"), (4, None, "not judged: not quiet")]:
        lines, found = aa.judged(aa.Part(aa.Kind.EQUAL, slowed(scattered, pairs), []), 20)
        assert found is within
        assert f"the processor slowed for a while in {pairs}" in lines[0]
        assert lines[-1] == f"  called SAME: 0.0% (at least 50%): {said}"


def test_a_wrong_answer_is_wrong_on_any_machine(aa: ModuleType) -> None:
    slower = slowed(pool(0.9, 0.901, 0.899, 0.9), 4)
    assert aa.judged(aa.Part(aa.Kind.EQUAL, slower, []), 20)[1] is False


def test_each_kind_has_its_bounds(aa: ModuleType) -> None:
    same, slower = pool(1.0, 1.001, 0.999, 1.0), pool(0.9, 0.901, 0.899, 0.9)
    assert aa.judged(aa.Part(aa.Kind.EQUAL, same, []), 20)[1]
    assert aa.judged(aa.Part(aa.Kind.LOADED, same, []), 20)[1]
    assert aa.judged(aa.Part(aa.Kind.PLANTED, slower, []), 20)[1]
    assert not aa.judged(aa.Part(aa.Kind.PLANTED, same, []), 20)[1]


@pytest.mark.parametrize("pairs", ["2", "3", "5", "102"])
def test_a_pool_of_which_no_comparison_can_be_drawn_is_refused(
    aa: ModuleType, pairs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["aa.py", "--pairs", pairs])
    with pytest.raises(SystemExit) as ended:
        aa.main()
    assert ended.value.code == 2
    assert "a pool has 4 to 100 pairs, an even number" in capsys.readouterr().err
