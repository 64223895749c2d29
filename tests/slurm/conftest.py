from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping

import pytest

from tests.slurm import one_machine


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs Slurm where it is not asked for, or not installed."""
    if "slurm" not in config.option.markexpr:
        reason = "starts a Slurm of its own: run by name, tox -e slurm"
    elif importlib.util.find_spec("torch") is None:
        reason = "torch is not installed, and this test runs real launches"
    elif missing := one_machine.missing():
        reason = f"Slurm is not installed: {', '.join(missing)} missing (slurm-wlm, munge)"
    else:
        return
    for item in items:
        if item.get_closest_marker("slurm") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def slurm() -> Iterator[Mapping[str, str]]:
    """Start a Slurm of two CPUs, and return the variables by which its programs find it."""
    with one_machine.running(cpus=2) as variables:
        yield variables
