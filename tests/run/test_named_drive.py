"""The drive that a case names: it must be of use before anything runs, and give nobody away."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bench.backends.base import World
from bench.backends.drives import swap_folder
from bench.results.record import Outcome
from bench.run import inplace, recording
from bench.run.agreement import hello
from bench.run.meeting import Meeting
from bench.run.plan import Planned, plan, replanned
from bench.worker.job import Job
from tests.builders import a_case, launches_of
from tests.run.examiner import HERE


def planned(drive: Path | str) -> Planned:
    zero: dict[str, Any] = {"stage": 3, "offload_optimizer": "nvme", "nvme_path": str(drive)}
    (found,) = plan([a_case(knobs={"engine": "deepspeed", "zero": zero})], [HERE], {})
    return found


def test_a_folder_that_is_not_there_is_a_row_and_leaves_other_cases_alone(tmp_path: Path) -> None:
    """On another node it may be there: that one has no part in the case, and others have."""
    found = planned(tmp_path / "nowhere")
    assert not found.runnable
    (case,) = hello(Meeting(2, "10.0.0.1", 29500), [found]).cases
    assert case.outcome is Outcome.UNSUPPORTED
    assert case.reason is not None
    assert case.reason.startswith("zero.nvme_path=")
    assert "/nowhere: there is no folder <path>/nowhere: name one on a drive" in case.reason


def test_a_record_that_is_repeated_is_in_its_own_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    (tmp_path / "somebody" / "drive").mkdir(parents=True)
    first = planned(tmp_path / "somebody" / "drive")
    record = recording.record_of(first, "session", launches_of(10.0, 11.0), None, {})
    (again,) = plan([record.requested], [HERE], {})
    assert again.keys == first.keys == replanned(first, first.case).keys
    assert record.contents == {"zero.nvme_path": "~/drive"}


def test_another_drive_is_another_series(tmp_path: Path) -> None:
    keys = [planned(tmp_path / name).keys for name in ("fast", "slow")]
    assert keys[0].series != keys[1].series
    assert keys[0].work == keys[1].work


def test_the_drive_in_a_record_tells_nobodys_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    case = planned(tmp_path / "somebody" / "drive")
    record = recording.record_of(case, "session", launches_of(10.0, 11.0), None, {})
    assert record.requested.knobs.zero.nvme_path == "~/drive"
    assert "somebody" not in record.model_dump_json()


def test_a_launcher_that_terminates_a_rank_leaves_nothing_on_the_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(job: Job, *_: object) -> NoReturn:
        kept = swap_folder(Path(job.folder), str(tmp_path))
        kept.mkdir()
        (kept / "weights.swp").write_bytes(b"1")
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it must not come to that")

    monkeypatch.setattr(inplace, "run_rank", terminated)

    def ignored(*_: object) -> None:
        """Or a launch that is not ended tidily would end the tests."""

    before = signal.signal(signal.SIGTERM, ignored)
    try:
        with pytest.raises(SystemExit) as caught:
            inplace._launch(planned(tmp_path), "session", World())
        assert signal.getsignal(signal.SIGTERM) is ignored
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
