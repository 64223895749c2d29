"""These tests run the real workloads: without torch and timm there is nothing to collect here."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") and find_spec("timm") else ["test_*.py"]
