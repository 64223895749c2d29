"""Two ranks of one launch, each a process of its own, and what each of them has printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_RANK = """
import importlib, json, sys
module, _, function = sys.argv[1].partition(":")
print(json.dumps(getattr(importlib.import_module(module), function)(*json.loads(sys.argv[2]))))
sys.stdout.flush()
import os
os._exit(0)
"""


def answers(
    function: str, *arguments: Any, environment: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return what `module:function` returns on each of two ranks.

    Args:
        function: Where it is; its arguments and its answer can be written as JSON.
        arguments: The same for both ranks.
        environment: Of both, beside their places.
    """
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else {}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, function, json.dumps(arguments)],
            cwd=ROOT,
            env={
                **os.environ,
                **loopback,
                "OMP_NUM_THREADS": "1",
                **(environment or {}),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [child.communicate(timeout=240) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], said[0][1] + said[1][1]
    return [json.loads(out.splitlines()[-1]) for out, _ in said]
