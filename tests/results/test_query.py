"""Rows are chosen by columns and knobs, whatever way the value is written."""

from __future__ import annotations

import pytest

from bench.results.query import QueryError, columns, where
from bench.results.row import Row

FAST = Row(
    scenario="quick",
    case="fast",
    backend="cpu",
    processes=1,
    verdict="measured",
    samples_per_s=20.5,
    knobs={"precision": "bf16", "data.workers": 1, "channels_last": True, "threads": None},
)
CLAIM = Row(scenario="quick", case="claim", backend="neuron", processes=2, verdict="claimed")


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("backend=cpu", [FAST]),
        ("backend=CPU", [FAST]),
        ("processes=2", [CLAIM]),
        ("processes=2.0", [CLAIM]),
        ("samples_per_s=20.5", [FAST]),
        ("samples_per_s=null", [CLAIM]),
        ("precision=bf16", [FAST]),
        ("data.workers=1", [FAST]),
        ("data.workers = 1", [FAST]),
        ("channels_last=true", [FAST]),
        ("channels_last=no", []),
        ("channels_last=null", [CLAIM]),
        ("launches=null", [FAST, CLAIM]),
        ("batch_size=8", []),
        ("case=2", []),
        ("threads=null", [FAST, CLAIM]),
        ("scenario=quick", [FAST, CLAIM]),
    ],
)
def test_one_condition(condition: str, found: list[Row]) -> None:
    assert where([FAST, CLAIM], [condition]) == found


def test_every_condition_has_to_be_met() -> None:
    assert where([FAST, CLAIM], ["scenario=quick", "backend=cpu"]) == [FAST]
    assert where([FAST, CLAIM], ["backend=neuron", "precision=bf16"]) == []


def test_a_value_may_hold_an_equals_sign() -> None:
    row = FAST.model_copy(update={"case": "batch_size=8,precision=fp32"})
    assert where([row, CLAIM], ["case=batch_size=8,precision=fp32"]) == [row]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("precison=bf16", "no column or knob 'precison'; did you mean precision?"),
        ("workers=1", "did you mean .*data.workers"),
        ("verdct=noisy", "did you mean verdict"),
        ("qqq=1", "columns: scenario, case, .*; knobs: task, model"),
        ("=1", "no column or knob ''"),
        ("precision", "write key=value"),
        ("launches=two", "--where launches=two: launches is a number, and 'two' is none"),
        ("samples_per_s=nan", "samples_per_s is a number, and 'nan' is none"),
        ("data.workers=few", "data.workers is a number, and 'few' is none"),
        ("threads=auto", "threads is a number, and 'auto' is none"),
        ("learning_rate=high", "learning_rate is a number"),
        ("channels_last=1", "channels_last is true or false, not '1'"),
        ("speedup_noisy=maybe", "speedup_noisy is true or false, not 'maybe'"),
    ],
)
def test_a_condition_that_cannot_be_understood_is_refused(condition: str, message: str) -> None:
    for rows in ([FAST], []):
        with pytest.raises(QueryError, match=message):
            where(rows, [condition])


def test_columns_are_named_once_each_in_the_order_given() -> None:
    assert columns("samples_per_s, case,precision,case") == ["samples_per_s", "case", "precision"]


@pytest.mark.parametrize(
    ("names", "message"), [("sampels_per_s", "did you mean samples_per_s"), (" , ", "no column")]
)
def test_columns_that_do_not_exist_are_refused(names: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        columns(names)
