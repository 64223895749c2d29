from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.run.driver import Bench


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what measures where there is nothing to measure with."""
    if importlib.util.find_spec("torch") is not None:
        return
    skip = pytest.mark.skip(reason="torch is not installed, and this test runs a real launch")
    for item in items:
        if item.get_closest_marker("torch") is not None:
            item.add_marker(skip)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return the command line in an empty folder, with the toy backend and the tiny model."""
    return Bench(tmp_path)
