from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell starts what runs in the background with Ctrl-C ignored, and every program started from
# here would inherit that: the tests send the signal themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A chosen part of the suite may hold no test that runs alone, or none that does not."""
    whole = any(Path(arg).resolve() == Path(__file__).parent for arg in session.config.args)
    halved = "alone" in session.config.option.markexpr and not whole
    if halved and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK
