"""A child's module that is imported here too needs torch_xla; the other tests run without."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch_xla") else ["test_xla_spmd.py"]
