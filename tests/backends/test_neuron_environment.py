"""The environment as text: compiler options, lists of cores, and what an import took back."""

from __future__ import annotations

import pytest

from bench.backends.base import World
from bench.backends.neuron_environment import changed, of_rank, options, visible_cores


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("", []),
        ("--auto-cast=none", [("--auto-cast", "none")]),
        ("--auto-cast none -O 1", [("--auto-cast", "none"), ("--optlevel", "1")]),
        ("-O3 -lnc=2", [("--optlevel", "3"), ("--logical-nc-config", "2")]),
        ("--no_cache --target=inf2", [("--no_cache", ""), ("--target", "inf2")]),
        ("--target='inf2", [("--target", "'inf2")]),
    ],
)
def test_options_are_read_in_both_spellings(flags: str, found: list[tuple[str, str]]) -> None:
    assert options(flags) == found


@pytest.mark.parametrize(
    ("written", "cores"), [("", None), ("0", [0]), ("0,4-6", [0, 4, 5, 6]), (" 2 ", [2])]
)
def test_a_list_of_cores_is_read_as_the_runtime_reads_it(
    written: str, cores: list[int] | None
) -> None:
    assert visible_cores(written) == cores


@pytest.mark.parametrize("written", ["a", "0-", "1,1", "0-2,2", "6-4", "0,6-4"])
def test_what_is_no_list_of_cores_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="NEURON_RT_VISIBLE_CORES"):
        visible_cores(written)


def test_ranks_share_the_cores_that_the_user_shows() -> None:
    shown = {"NEURON_RT_VISIBLE_CORES": "4-5"}
    cores = [
        of_rank(World(rank=rank, size=2, local_rank=rank), shown)["NEURON_RT_VISIBLE_CORES"]
        for rank in (0, 1)
    ]
    assert cores == ["4", "5"]


def test_a_rank_without_a_core_is_an_error() -> None:
    with pytest.raises(ValueError, match="local rank 1 has no core"):
        of_rank(World(rank=1, size=2, local_rank=1), {"NEURON_RT_VISIBLE_CORES": "0"})


def test_under_torchrun_torch_xla_gives_the_cores_itself() -> None:
    variables = {"TORCHELASTIC_RUN_ID": "x", "NEURON_RT_VISIBLE_CORES": "0-1"}
    assert of_rank(World(rank=1, size=2, local_rank=1), variables) == {}


def test_a_root_that_the_user_names_stays() -> None:
    named = {"NEURON_RT_ROOT_COMM_ID": "10.0.0.1:5000"}
    world = World(rank=0, size=2, local_rank=0)
    assert of_rank(world, named)["NEURON_RT_ROOT_COMM_ID"] == "10.0.0.1:5000"


CHOSEN = {"NEURON_CC_FLAGS": "--auto-cast=none --optlevel=3", "XLA_USE_BF16": "0"}


@pytest.mark.parametrize(
    "flags",
    [
        "--auto-cast=none --optlevel=3",
        "--auto-cast=none --optlevel=3 --verbose=35 --framework=XLA",
        "--auto-cast=all --auto-cast=none -O3",
    ],
)
def test_what_an_import_adds_or_spells_otherwise_changes_nothing(flags: str) -> None:
    assert changed(CHOSEN, {"NEURON_CC_FLAGS": flags, "XLA_USE_BF16": "0", "MORE": "1"}) == {}


def test_an_option_that_was_chosen_twice_is_what_it_was_last() -> None:
    twice = {"NEURON_CC_FLAGS": "--verbose=35 --verbose=info"}
    assert changed(twice, twice) == {}
    first = {"NEURON_CC_FLAGS": "--verbose=info --verbose=35"}
    assert changed(twice, first) == {"NEURON_CC_FLAGS --verbose": "35"}


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (
            "--auto-cast=none --optlevel=3 --auto-cast=matmult",
            {"NEURON_CC_FLAGS --auto-cast": "matmult"},
        ),
        ("--auto-cast=none", {"NEURON_CC_FLAGS --optlevel": "--auto-cast=none"}),
    ],
)
def test_an_option_that_was_overruled_or_lost_is_named(flags: str, found: dict[str, str]) -> None:
    assert changed(CHOSEN, {"NEURON_CC_FLAGS": flags, "XLA_USE_BF16": "0"}) == found


def test_a_switch_that_was_turned_back_is_named() -> None:
    chosen = {"NEURON_CC_FLAGS": "--enable-mixed-precision-accumulation"}
    now = {
        "NEURON_CC_FLAGS": "--enable-mixed-precision-accumulation "
        "--disable-mixed-precision-accumulation"
    }
    assert list(changed(chosen, now)) == ["NEURON_CC_FLAGS --enable-mixed-precision-accumulation"]


def test_a_variable_that_was_changed_or_removed_is_named() -> None:
    now = {"NEURON_CC_FLAGS": CHOSEN["NEURON_CC_FLAGS"]}
    assert changed(CHOSEN, now) == {"XLA_USE_BF16": "not set"}
    assert changed(CHOSEN, now | {"XLA_USE_BF16": "1"}) == {"XLA_USE_BF16": "1"}
