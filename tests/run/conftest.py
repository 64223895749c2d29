from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.run.driver import Bench

collect_ignore_glob = (
    []
    if importlib.util.find_spec("torch") and importlib.util.find_spec("timm")
    else ["test_nvme_runs.py"]
)

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


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


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return what imports a script of the folder `benchmarks`, as they import each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def check_asked(benchmarks: Callable[[str], ModuleType], tmp_path: Path) -> Callable[..., Any]:
    """Return a maker of what the command line of `gpu_check.py` asks for."""
    request, sides = benchmarks("gpu_request"), benchmarks("sides")

    def check(**changes: Any) -> Any:
        plain = {
            "backend": "cpu",
            "workload": sides.WORKLOADS["small-vit"],
            "batch_size": 16,
            "results": tmp_path,
            "rungs": [],
            "settings": [],
            "tests": "tests",
            "launches": 1,
            "seconds": 0.5,
            "pairs": 2,
        }
        return request.Check(**(plain | changes))

    return check
