"""A machine without room: no temporary files, no processes, a results folder that becomes full."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.backends import registry
from bench.backends.temporary import TemporaryError
from bench.cli import main, running
from bench.results.record import Launch, Outcome, Phase
from bench.results.store import Store, StoreError
from bench.run import launching
from bench.run.ending import End
from bench.run.launching import Order
from tests.run.test_rounds import Bench, Recorder, a_plan, bench, launch_for

__all__ = ["bench"]


def an_order(**fields: Any) -> Order:
    return Order(a_plan("a"), 0, 0, "session", 0, timeout_s=5.0, cache="none", **fields)


def failing(number: int, message: str) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, message)

    return fail


def a_file(folder: Path) -> str:
    path = folder / "file"
    path.touch()
    return str(path)


def launched(order: Order) -> End:
    found = launching.run(order, lambda _: None, lambda: False)
    assert isinstance(found, End)
    assert (found.outcome, found.phase) == (Outcome.CRASH, Phase.START)
    return found


class TestLaunch:
    def test_without_a_folder_for_temporary_files_it_is_a_typed_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", a_file(tmp_path))
        end = launched(an_order())
        assert end.reason.startswith("cannot make a folder for temporary files: Not a directory")
        assert end.remedy == "name a folder that this user may write to with TMPDIR"

    def test_without_space_for_its_job_it_tells_of_the_space(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Path, "write_text", failing(errno.ENOSPC, "No space left on device"))
        end = launched(an_order())
        assert end.reason == "the launch cannot be started: No space left on device"
        assert "free some space" in (end.remedy or "")
        assert "TMPDIR" in (end.remedy or "")

    def test_without_a_place_for_compiled_code_too(self, tmp_path: Path) -> None:
        end = launched(an_order(cache_folder=Path(a_file(tmp_path)) / "cache"))
        assert end.reason.startswith("the launch cannot be started: Not a directory")

    @pytest.mark.parametrize(
        ("number", "remedy"),
        [(errno.EAGAIN, "ulimit -u"), (errno.ENOMEM, "too little memory is free")],
    )
    def test_a_process_that_cannot_be_started_is_a_typed_end(
        self, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
    ) -> None:
        monkeypatch.setattr(subprocess, "Popen", failing(number, "cannot fork"))
        end = launched(an_order())
        assert end.reason == "the launch cannot be started: cannot fork"
        assert remedy in (end.remedy or "")

    def test_a_health_pass_ends_as_a_launch_does(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", a_file(tmp_path))
        found = launching.run_health(an_order(), lambda _: None, lambda: False)
        assert isinstance(found, End)
        assert found.remedy is not None


def test_a_probe_that_cannot_be_started_makes_its_backend_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subprocess, "Popen", failing(errno.EAGAIN, "cannot fork"))
    probe = registry.Prober().probe("cpu")
    assert not probe.available
    assert probe.reason == "its probe cannot be started: cannot fork"
    assert "ulimit -u" in (probe.remedy or "")


def test_a_command_without_temporary_files_ends_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", a_file(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench", "run", "quick", "--backend", "cpu", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("bench: cannot make a folder for temporary files: Not a directory")
    assert said.count("\n") == 1


def test_rounds_without_a_place_for_compiled_code_say_so(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", a_file(tmp_path))
    with pytest.raises(TemporaryError, match="TMPDIR"):
        bench.rounds([a_plan("a")], Recorder()).run()


def test_a_results_folder_that_becomes_full_ends_with_the_table_of_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(order: Order, *_: object, **__: object) -> Launch:
        return launch_for(order, 100.0)

    def append(store: Store, record: Any) -> Path:
        if record.requested.case == "second":
            raise StoreError("cannot write to the results folder: No space left on device")
        return written(store, record)

    written = Store.append
    monkeypatch.setattr(Store, "append", append)
    plans = [a_plan("first", launches=1), a_plan("second", 1, launches=1)]
    monkeypatch.setattr(running, "_planned", lambda *_: plans)
    monkeypatch.setattr(launching, "run", measured)
    request = running.Request(
        scenarios=[],
        backends=[],
        settings=[],
        sweeps=[],
        cases=[],
        results=tmp_path / "results",
        resume=False,
        prices=None,
        format="csv",
    )
    with pytest.raises(StoreError, match="No space left"):
        running.run(request)
    header, *rows = capsys.readouterr().out.splitlines()
    assert "samples_per_s" in header
    assert [row.split(",")[1] for row in rows] == ["first"]
