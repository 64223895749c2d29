"""The installed package, away from the checkout: every command a user meets first.

Run by tox after the tests, since those import the checkout. Not a pytest module.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.backends import peaks

TINY = [
    "--set=model_kwargs={img_size: 32, patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2}",
    "--set=classes=10",
    "--budget=1.5",
]


def bench(*arguments: str, cwd: str) -> str:
    """Return what the installed `bench` prints; it must succeed."""
    program = str(Path(sys.executable).with_name("bench"))
    done = subprocess.run(
        [program, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"bench {' '.join(arguments)}: {done.returncode}\n{done.stderr}")
    return done.stdout


def main() -> None:
    """List, show and tabulate; with torch also measure."""
    with tempfile.TemporaryDirectory() as folder:
        vits = ("vit-train", "vit-ladder", "vit-matrix", "vit-offload", "vit-scaling")
        for name in ("quick", *vits, "loader"):
            assert name in bench("list", "scenarios", cwd=folder)
            assert name in bench("show", name, cwd=folder)
        Path(folder, "results").mkdir()
        claims = json.loads(bench("table", "--with", "published", "--format", "json", cwd=folder))[
            "rows"
        ]
        assert any(row["samples_per_s"] == 1027.39 for row in claims), claims
        assert json.loads(bench("schema", "record", cwd=folder))["title"] == "Record"
        peak = peaks.load().find("NVIDIA H200", "bf16")
        assert peak is not None
        assert peak.flops_per_s == 989.5e12
        if importlib.util.find_spec("torch") is None:
            print("installed: list, show, table and schema work without torch")
            return
        document = json.loads(bench("run", "quick", "--format", "json", *TINY, cwd=folder))
        assert [row["outcome"] for row in document["rows"]] == ["ok", "ok"], document
        assert len(list(Path(folder).glob("results/runs/*/*/*/*.json"))) == len(document["rows"])
        print("installed: measured", [row["samples_per_s"] for row in document["rows"]])


if __name__ == "__main__":
    main()
