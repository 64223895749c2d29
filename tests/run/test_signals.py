"""Which signals stop a run, and what a run under torchrun refuses to be told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli.stopping import stop_on_signals


def test_a_signal_that_whoever_started_us_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == []
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_that_asks_to_stop_is_noted_once_and_handlers_come_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    with stop_on_signals() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]

    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopping" in capfd.readouterr().err


@pytest.mark.parametrize(
    "option",
    ["--resume", "--launches=2", "--precision-target=2", "--timeout=60"],
)
def test_under_torchrun_an_option_of_our_launcher_is_refused_by_name(
    tmp_path: Path, option: str
) -> None:
    place = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}

    done = subprocess.run(
        [sys.executable, "-m", "bench", "run", "quick", option, f"--results={tmp_path / 'r'}"],
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert option.partition("=")[0] in done.stderr
    assert "has no meaning under torchrun" in done.stderr
    assert not (tmp_path / "r").exists()
