"""Every engine over two ranks trains what one process trains on both halves of the batch."""

from __future__ import annotations

import importlib.util
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


def needs(settings: dict[str, Any]) -> list[pytest.MarkDecorator]:
    """Return the mark that skips an engine whose package is not here."""
    engine = settings["engine"]
    absent = engine in PACKAGES and importlib.util.find_spec(engine) is None
    reason = f'{engine} is not installed: pip install "accelbench[{engine}]"'
    return [pytest.mark.skipif(absent, reason=reason)]


ACCUMULATING = {"gradient_accumulation": 2}
SGD = {"optimizer": "sgd", "learning_rate": 0.1}


@pytest.mark.parametrize("rule", [{}, SGD | ACCUMULATING], ids=["adamw", "sgd, two micro-batches"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=needs(ENGINES[n])) for n in ENGINES])
def test_two_ranks_train_as_one_process_on_the_whole_batch(
    tmp_path: Path, name: str, rule: dict[str, Any]
) -> None:
    ranks = answers("tests.worker.engine_ranks:together", str(tmp_path), ENGINES[name] | rule)
    single = alone(str(tmp_path), rule)
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


@pytest.mark.parametrize(
    ("settings", "plant", "words"),
    [
        ({"engine": "ddp"}, None, "weights are equal"),
        ({"engine": "ddp"}, "gradients stay apart", "weights differ"),
        ({"engine": "fsdp"}, None, "weights are equal"),
        ({"engine": "fsdp"}, "parts are not added", "has a loss: 0"),
    ],
)
def test_ranks_that_do_not_hear_of_each_other_are_caught_by_ranks_agree(
    tmp_path: Path, settings: dict[str, Any], plant: str | None, words: str
) -> None:
    audit, _ = answers("tests.worker.engine_ranks:launched", str(tmp_path), settings, plant)
    assert audit["ranks_agree"].startswith("pass" if plant is None else "fail")
    assert words in audit["ranks_agree"]
    assert audit["collectives_real"].startswith("pass")
    assert audit["as_asked"].startswith("pass")
