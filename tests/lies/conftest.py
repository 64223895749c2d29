"""Launches with a lie planted need torch; the lies of a fake clock do not."""

from importlib.util import find_spec

_HAS_TORCH = bool(find_spec("torch") and find_spec("timm"))
collect_ignore_glob = (
    []
    if _HAS_TORCH
    else [
        "test_engine_lies.py",
        "test_machine_lies.py",
        "test_nvme_lies.py",
        "test_training_lies.py",
        "test_work_lies.py",
        "test_xla_lies.py",
    ]
)
