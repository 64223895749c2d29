from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# A shell starts what runs in the background with Ctrl-C ignored, and every program started from
# here would inherit that: the tests send the signal themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIRED = "BENCH_DEVICE_REQUIRED"
"""Set in the environments that prove an accelerator, or Slurm: where there is none every test is
skipped, which proves nothing and must not look as if it did."""


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Judge a run of which nothing, or nothing that ran, is left.

    A chosen part of the suite may hold no test that runs alone, or none that does not.
    """
    if os.environ.get(REQUIRED) == "1" and exitstatus == pytest.ExitCode.OK:
        _demand_that_something_ran(session)
    whole = any(Path(arg).resolve() == Path(__file__).parent for arg in session.config.args)
    halved = "alone" in session.config.option.markexpr and not whole
    if halved and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


def _demand_that_something_ran(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.option.collectonly or reporter is None or reporter.stats.get("passed"):
        return
    reporter.write_line("")
    why = "what they are there to show has not been found"
    reporter.write_line(f"{REQUIRED}=1, and every test was skipped: {why} (-rs says why)", red=True)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
