"""Tests that open a device need torch and timm; the others here run without."""

from importlib.util import find_spec

_HAS_TORCH = bool(find_spec("torch") and find_spec("timm"))
collect_ignore_glob = (
    []
    if _HAS_TORCH
    else [
        "test_actual.py",
        "test_engine_ranks.py",
        "test_exchange.py",
        "test_files.py",
        "test_health.py",
        "test_inspection.py",
        "test_launch.py",
        "test_machine_figures.py",
        "test_mesh.py",
        "test_precompile.py",
        "test_ranks.py",
    ]
)
