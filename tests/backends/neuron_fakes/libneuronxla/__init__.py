"""Stands for AWS's package of that name: what it does to the environment, and nothing else.

Every import and every call leaves a line in the file that FAKE_NEURON_LOG names, with the
environment as it was then.
"""

from __future__ import annotations

import json
import os
import sys


def note(event: str) -> None:
    log = os.environ.get("FAKE_NEURON_LOG")
    if log:
        seen = {k: v for k, v in os.environ.items() if k.startswith(("NEURON", "PJRT", "XLA"))}
        line = {"event": event, "environment": seen, "torch_xla": "_XLAC" in sys.modules}
        with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123 - as small as can be
            file.write(json.dumps(line) + "\n")


def configure_environment() -> None:
    note("libneuronxla.configure_environment")
    os.environ.setdefault("NEURON_INTERNAL_FAKE_CONFIGURED", "1")


note("import libneuronxla")
