"""The probe child: asks one adapter about this machine and writes the answer to a file.

Started as `python -m bench.backends.probe NAME FILE`. The answer goes to a file because libraries
print to both streams while they are imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.backends.registry import get


def main() -> None:
    """Probe the backend named by the first argument into the file named by the second."""
    name, answer = sys.argv[1:3]
    probe = get(name).probe()
    Path(answer).write_text(probe.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
