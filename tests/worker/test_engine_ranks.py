"""Every engine over two ranks trains what one process trains on both halves of the batch."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.backends.engines import PACKAGES
from tests.worker.engine_ranks import UPDATES, alone
from tests.worker.two_ranks import answers

pytestmark = [pytest.mark.torch, pytest.mark.slow]

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"engine": "ddp"},
    "fsdp": {"engine": "fsdp"},
    "fsdp that keeps gathered weights": {
        "engine": "fsdp",
        "fsdp": {"reshard_after_forward": False},
    },
    "fsdp on the host": {"engine": "fsdp", "fsdp": {"offload": "cpu"}},
    "fsdp, compiled": {"engine": "fsdp", "compile": "inductor"},
}
ZERO = {
    "zero 0": {"stage": 0},
    "zero 1": {"stage": 1},
    "zero 2": {"stage": 2},
    "zero 3": {"stage": 3},
    "zero 1, optimizer on the host": {"stage": 1, "offload_optimizer": "cpu"},
    "zero 2, optimizer on the host": {"stage": 2, "offload_optimizer": "cpu"},
    "zero 3, all on the host": {"stage": 3, "offload_optimizer": "cpu", "offload_param": "cpu"},
}
ENGINES["accelerate"] = {"engine": "accelerate"}
ENGINES |= {name: {"engine": "deepspeed", "zero": zero} for name, zero in ZERO.items()}


def missing(engine: str) -> bool:
    """Say whether an engine is a package that is not here."""
    return engine in PACKAGES and importlib.util.find_spec(engine) is None


def needs(settings: dict[str, Any]) -> list[pytest.MarkDecorator]:
    """Return the mark that skips an engine whose package is not here."""
    engine = str(settings["engine"])
    reason = f'{engine} is not installed: pip install "accelbench[{engine}]"'
    return [pytest.mark.skipif(missing(engine), reason=reason)]


Trained = tuple[list[dict[str, Any]], dict[str, Any]]
"""What each of two ranks found, and one process on the whole batch."""
ACCUMULATING = {"gradient_accumulation": 2}
SGD = {"optimizer": "sgd", "learning_rate": 0.1}
RULES: dict[str, dict[str, Any]] = {"adamw": {}, "sgd, two micro-batches": SGD | ACCUMULATING}
TRAINED = [
    (name, rule)
    for name in ENGINES
    for rule in RULES
    # What is compiled takes its time.
    if "compile" not in ENGINES[name] or RULES[rule]
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Trained]:
    """Return what two ranks found with an engine; those of its kind run in the same processes."""

    @functools.cache
    def together(kind: str, rule: str) -> dict[str, list[dict[str, Any]]]:
        names = [name for name, of in TRAINED if of == rule and kind_of(name) == kind]
        each = [ENGINES[name] | RULES[rule] for name in names]
        folder = str(tmp_path_factory.mktemp("together"))
        ranks = answers("tests.worker.engine_ranks:together", folder, each)
        return {name: list(found) for name, *found in zip(names, *ranks, strict=True)}

    @functools.cache
    def single(rule: str) -> dict[str, Any]:
        return alone(str(tmp_path_factory.mktemp("alone")), RULES[rule])

    return lambda name, rule: (together(kind_of(name), rule)[name], single(rule))


def kind_of(name: str) -> str:
    """Return what an engine needs, so that one that fails takes none of another kind along."""
    if "compile" in ENGINES[name]:
        return "a compiler"
    engine = str(ENGINES[name]["engine"])
    return engine if engine in PACKAGES else "torch"


@pytest.mark.parametrize(
    ("name", "rule"), [pytest.param(*each, marks=needs(ENGINES[each[0]])) for each in TRAINED]
)
def test_two_ranks_train_as_one_process_on_the_whole_batch(
    trained: Callable[[str, str], Trained], name: str, rule: str
) -> None:
    ranks, single = trained(name, rule)
    first, second = ranks
    losses = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert losses == pytest.approx(single["losses"], abs=2e-5)
    assert first["losses"] != second["losses"]
    assert first["weights"] == second["weights"]
    # Adam divides by the root of squares: where a gradient is nearly zero, its sign may turn.
    assert first["weights"] == pytest.approx(single["weights"], abs=2e-4)
    for rank in ranks:
        assert rank["updates"] == UPDATES
        assert rank["moved"] == 1.0
        assert rank["untrained"] == []
        assert rank["agree"] is True
        assert rank["parameters"] == len(single["weights"])
        assert rank["heard"] > 0
        shown = rank["actual"].get("zero.stage", 0) == 0
        assert rank["kept"] == (pytest.approx(1.0, abs=1e-5) if shown else None)
        assert {name: rank["actual"][name] for name in rank["asked"]} == rank["asked"]


FAULTS = [
    ("ddp", "gradients stay apart", "weights differ"),
    ("accelerate", "gradients stay apart", "weights differ"),
    ("fsdp", "parts are not added", "has a loss: 0"),
    ("fsdp", None, "weights are equal over the ranks; least gradient norm"),
]


@pytest.mark.parametrize(
    ("name", "plant", "words"),
    [pytest.param(*fault, marks=needs(ENGINES[fault[0]])) for fault in FAULTS],
)
def test_ranks_that_do_not_hear_of_each_other_are_caught_by_ranks_agree(
    tmp_path: Path, name: str, plant: str | None, words: str
) -> None:
    """Without the diagnostic pass as well: every first launch looks at the exchange."""
    audit, _ = answers(
        "tests.worker.engine_ranks:launched", str(tmp_path), ENGINES[name], plant, False
    )
    assert audit["ranks_agree"].startswith("pass" if plant is None else "fail")
    assert words in audit["ranks_agree"]
    assert audit["collectives_real"].startswith("pass")
    assert audit["as_asked"].startswith("pass")
    assert audit["straggler"] == "windows, 0 ranks"
    assert audit["precision_ran"] == (
        "not_applicable: asked fp32: products: measure.diagnostics=false; a known product was not "
        "computed"
    )
    untouched = "not_applicable: gradients: measure.diagnostics=false"
    assert audit["gradients_untouched"] == untouched


@needs({"engine": "deepspeed"})[0]
def test_zero_whose_sums_are_each_ranks_own_is_heard_to_be_deaf(tmp_path: Path) -> None:
    plant = "zero adds nothing"
    each = [{"engine": "deepspeed", "zero": {"stage": stage}} for stage in (1, 2, 3)]
    for rank in answers("tests.worker.engine_ranks:listening", str(tmp_path), each, plant):
        assert [found["shards"] for found in rank] == [True] * 3
        assert all(found["as it is"] > 0 for found in rank), rank
        assert [found[plant] for found in rank] == [0.0] * 3


def test_ranks_that_have_built_other_weights_train_those_of_the_first(tmp_path: Path) -> None:
    """A factory may draw without the seed: parts of different models would be none."""
    wanted = ("ddp", "fsdp", "accelerate", "zero 3")
    names = [name for name in wanted if not missing(str(ENGINES[name]["engine"]))]
    ranks = answers(
        "tests.worker.engine_ranks:built_apart", str(tmp_path), [ENGINES[n] for n in names]
    )
    for rank in ranks:
        assert dict.fromkeys(names, ranks[0]["of the first rank's seed"]) == dict(
            zip(names, rank["weights"], strict=True)
        )
        assert rank["odd"] == ranks[0]["odd"]
    assert ranks[0]["odd"]["weight"] == str([[1.0, 1.0]] * 3)
