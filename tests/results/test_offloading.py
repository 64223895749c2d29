"""What offloading costs and saves: against the same engine of the session without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from bench.results.comparison import paired
from bench.results.record import Outcome, Record, Verdict
from bench.results.table import Format
from tests.builders import launches_of
from tests.results.test_scaling import row, table, text

GIB = 2**30
KEPT, MOVED = (90.0, 91.0, 92.0), (40.0, 41.0, 42.0)
STAGE_3 = {"engine": "deepspeed", "zero": {"stage": 3}}


def record(
    case: str,
    position: int,
    knobs: Mapping[str, object],
    speeds: Sequence[float],
    gib: float | None = None,
    *,
    own: bool = True,
    **fields: object,
) -> Record:
    memory = None if gib is None else int(gib * GIB)
    ran = launches_of(*speeds, actual={"own_memory": own}, peak_memory_bytes=memory)
    return row(case, position, {"processes": 2, **knobs}, **{"launches": ran} | fields)  # type: ignore[arg-type]


def fsdp(gib: float | None = 6.0, **fields: object) -> Record:
    return record("fsdp", 1, {"engine": "fsdp"}, KEPT, gib, **fields)  # type: ignore[arg-type]


def on_host(gib: float | None = 3.0, **fields: object) -> Record:
    settings = {"engine": "fsdp", "fsdp": {"offload": "cpu"}}
    return record("fsdp-host", 2, settings, MOVED, gib, **fields)  # type: ignore[arg-type]


DDP = record("ddp", 0, {"engine": "ddp"}, (100.0, 100.0, 100.0), 9.0)


def test_speed_and_memory_are_held_against_the_same_without() -> None:
    rows = table(DDP, fsdp(), on_host())
    found, ratio = rows["fsdp-host"], paired([b / a for a, b in zip(KEPT, MOVED, strict=True)])
    assert found.offload_ratio == pytest.approx(ratio.estimate)
    assert (found.offload_ratio_low, found.offload_ratio_high) == (ratio.low, ratio.high)
    assert (found.offload_against, found.offload_saved_bytes) == ("fsdp", 3 * GIB)
    assert found.offloads == "fsdp.offload=cpu"
    assert found.offload_reason is None
    assert found.speedup == pytest.approx(0.41, abs=0.005)
    for name in ("ddp", "fsdp"):
        assert rows[name].offload_ratio is rows[name].offload_reason is None


def test_each_offload_of_a_stage_has_its_own_ratio() -> None:
    def moved(case: str, position: int, speed: float, gib: float, **where: str) -> Record:
        settings = {"engine": "deepspeed", "zero": {"stage": 3, **where}}
        return record(case, position, settings, (speed,) * 3, gib)

    rows = table(
        record("zero-2", 1, {"engine": "deepspeed", "zero": {"stage": 2}}, (95.0,) * 3, 7.0),
        record("zero-3", 2, STAGE_3, (80.0,) * 3, 5.0),
        moved("param", 3, 60.0, 4.0, offload_param="cpu"),
        moved("both", 4, 20.0, 3.0, offload_optimizer="cpu", offload_param="cpu"),
        moved("files", 5, 8.0, 3.5, offload_optimizer="nvme", offload_param="nvme"),
        moved("drive", 6, 4.0, 5.5, offload_optimizer="nvme", nvme_path="/mnt/drive"),
    )
    found = {name: (r.offload_ratio, r.offload_saved_bytes) for name, r in rows.items()}
    assert found["param"] == (pytest.approx(0.75), GIB)
    assert found["both"] == (pytest.approx(0.25), 2 * GIB)
    assert found["files"] == (pytest.approx(0.1), 1.5 * GIB)
    assert found["drive"] == (pytest.approx(0.05), -0.5 * GIB)
    assert {r.offload_against for r in rows.values()} == {None, "zero-3"}
    assert "needs 512 MiB more" in text(rows, Format.RICH, 160)


@pytest.mark.parametrize(
    ("kept", "moved", "reason"),
    [
        (DDP, on_host(), "the session has no row of the same settings that offloads nothing"),
        (
            fsdp(session="yesterday"),
            on_host(),
            "the session has no row of the same settings that offloads nothing",
        ),
        (
            fsdp(outcome=Outcome.OOM, reason="full", launches=[]),
            on_host(),
            "the row without (fsdp) has no number",
        ),
        (fsdp(), on_host(verdict=Verdict.SUSPECT), "this row is suspect"),
    ],
)
def test_where_there_is_no_such_row_it_says_why(kept: Record, moved: Record, reason: str) -> None:
    rows = table(kept, moved)
    found = rows["fsdp-host"]
    assert found.samples_per_s is not None
    assert found.offload_ratio is found.offload_saved_bytes is None
    assert found.offload_reason == reason
    assert f"fsdp-host: {reason}" in text(rows, Format.RICH, 160)


def test_where_the_memory_is_the_hosts_it_saves_nothing_and_says_so() -> None:
    rows = table(fsdp(own=False), on_host(own=False))
    assert rows["fsdp-host"].offload_saved_bytes is None
    assert rows["fsdp-host"].own_memory is False
    assert rows["fsdp-host"].offload_ratio is not None
    assert "saves nothing" in text(rows, Format.RICH, 100)
    assert "saves nothing" in text(rows, Format.MARKDOWN)


def test_memory_that_is_not_known_is_not_saved() -> None:
    rows = table(fsdp(None), on_host())
    assert rows["fsdp-host"].offload_saved_bytes is None
    assert "saves" not in text(rows, Format.RICH, 100)


@pytest.mark.parametrize("width", [80, 100])
def test_memory_keeps_its_place_where_a_case_offloads(width: int) -> None:
    lines = text(table(DDP, fsdp(), on_host()), Format.RICH, width).splitlines()
    assert max(map(len, lines)) <= width
    at = next(i for i, line in enumerate(lines) if line.startswith("fsdp-host"))
    assert "0.450x [0.436, 0.466]" in lines[at]
    assert "3.00 GiB" in lines[at]
    assert "saves 3.00 GiB" in lines[at + 1]


def test_it_stands_in_one_line_where_there_is_room() -> None:
    shown = text(table(DDP, fsdp(), on_host()), Format.RICH, 160)
    assert "0.450x [0.436, 0.466], saves 3.00 GiB" in shown
    assert "offload: speed over the same case without offloading" in shown
