"""How lists and plans fit a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from bench.cli import listing

REASON = "no such device is visible here, and nothing on this machine says why"


def written(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    row: dict[str, Any] = {
        "scenario": "vit-ladder",
        "case": "steps-per-graph",
        "on": "bf16-everywhere",
        "backend": "neuron",
        "processes": 1,
        "outcome": "unavailable",
        "reason": REASON,
    }
    listing._write([row], "rich")
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    return lines


def test_names_stand_whole_where_prose_has_room_beside_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head, first, *_ = written(120, monkeypatch, capsys)
    assert head.split()[-1] == "reason"
    assert first.split()[:6] == [
        *("vit-ladder", "steps-per-graph", "bf16-everywhere", "neuron", "1", "unavailable")
    ]


@pytest.mark.parametrize("width", [70, 80, 95])
def test_prose_never_stands_on_end(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = written(width, monkeypatch, capsys)
    assert len(lines) <= 1 + len(REASON.split())
