"""What ranks exchange takes time, and a rank may be slower than the others: both are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.backends.base import World
from bench.measure.alignment import Alignment
from bench.measure.target import ALONE
from bench.results.record import Diagnostics
from bench.scenarios.schema import Knobs
from bench.worker import diagnostics
from tests.worker.engine_ranks import SLOW_S
from tests.worker.test_engine_ranks import needs
from tests.worker.two_ranks import answers

pytestmark = [pytest.mark.torch, pytest.mark.slow]

ACCELERATE: dict[str, Any] = {"engine": "accelerate"}
ZERO_0: dict[str, Any] = {"engine": "deepspeed", "zero": {"stage": 0}}


def timed(folder: Path, *each: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return what both ranks say of each case, case by case."""
    first, second = answers("tests.worker.engine_ranks:exchanging", str(folder), list(each))
    both: Any = zip(first, second, strict=True)
    return [[a, b] for a, b in both]


def check_a_slow_rank(ranks: list[dict[str, Any]]) -> None:
    fast, slow = (rank["rank"] for rank in ranks)
    assert slow["own_s"] > SLOW_S
    assert fast["own_s"] < slow["own_s"]
    assert fast["communication_share"] == slow["communication_share"] < 0.5


def check_slow_collectives(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        late = rank["collectives"]
        assert late["communication_share"] > 0.5
        # On a busy machine two ranks wait for each other without a plant, too.
        assert late["communication_share"] > rank["as it is"]["communication_share"] + 0.1
        assert len(late["communication_shares"]) == 3


def test_slow_collectives_are_communication_and_a_slow_rank_is_none(tmp_path: Path) -> None:
    accumulating = {"engine": "ddp", "gradient_accumulation": 2}
    inferring = {"engine": "ddp", "task": "infer"}
    ddp, fsdp, infer = timed(tmp_path, accumulating, {"engine": "fsdp"}, inferring)
    for ranks in (ddp, fsdp):
        check_slow_collectives(ranks)
        check_a_slow_rank(ranks)
    for rank in infer:
        assert rank["as it is"]["communication_share"] is None
        assert rank["as it is"]["own_s"] is None
        assert rank["as it is"]["skipped"] == [
            "communication: inference exchanges nothing where every rank has all weights"
        ]


@needs(ACCELERATE)[0]
@needs(ZERO_0)[0]
def test_the_same_holds_for_engines_of_packages_that_can_leave_it_out(tmp_path: Path) -> None:
    zero_2 = {"engine": "deepspeed", "zero": {"stage": 2}}
    accelerate, zero_0, shared = timed(tmp_path, ACCELERATE, ZERO_0, zero_2)
    check_slow_collectives(accelerate)
    check_a_slow_rank(accelerate)
    check_a_slow_rank(zero_0)
    for rank in shared:
        assert rank["as it is"]["communication_share"] is None
        assert rank["as it is"]["skipped"] == [
            "communication: what ZeRO has shared out must be exchanged for an update"
        ]


def test_one_device_exchanges_nothing_and_those_of_one_process_cannot_leave_it_out() -> None:
    def found(**knobs: Any) -> tuple[Diagnostics, float | None]:
        nothing: Any = None
        return diagnostics.without_exchange(
            Knobs(**knobs),
            Diagnostics(),
            nothing,
            nothing,
            Alignment(),
            periods=3,
            budget_s=1.0,
            world=World(),
            peers=ALONE,
        )

    assert found() == (Diagnostics(), None)
    told, own_s = found(engine="spmd")
    assert own_s is None
    assert told.skipped == [
        "communication: the devices of one process exchange inside of its graph"
    ]
