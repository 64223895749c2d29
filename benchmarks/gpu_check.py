"""Everything that is to be shown on a GPU, in one run: prints one summary, and records the rows.

The tests of the device; the public ladder; timm's own loop beside the harness with that script's
settings, in one sitting; the share of the peak that compiled amp-bf16 reaches, and a profile where
that is too little. It runs on any backend that torch drives eagerly, with a small model too.

Exit code 0: all bounds hold; 1: some are missed, each with its figures; 2: usage; 4: a part of it
gave no result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import gpu_parts
from gpu_bounds import Finding
from gpu_parts import Check, Failed
from sides import WORKLOADS, SideFailed, Workload

from bench.backends.base import Probe
from bench.backends.registry import Prober

PARTS = ("tests", "ladder", "beside", "rungs")
VIT_BASE = Workload("vit-base", "vit_base_patch16_224", {}, 224, 1000, 256)
MODELS = {VIT_BASE.name: VIT_BASE, **WORKLOADS}
_EXIT_MISSED, _EXIT_USAGE, _EXIT_FAILED = 1, 2, 4


def main() -> int:
    """Run what the command line asks for, and print the summary."""
    args = _arguments()
    workload = MODELS[args.model]
    check = Check(
        backend=args.backend,
        workload=workload,
        batch_size=args.batch_size or workload.batch_size,
        results=args.results.absolute(),
        rungs=args.rung,
        settings=args.set,
        tests=args.tests,
        launches=args.launches,
        seconds=args.seconds,
        pairs=args.pairs,
    )
    probe = Prober().probe(check.backend)
    if not probe.available:
        print(f"{check.backend} is not available: {probe.reason}; {probe.remedy}", file=sys.stderr)
        return _EXIT_USAGE
    told: list[str | Finding] = []
    loop: list[float] = []
    failed: list[str] = []
    for part in [part for part in PARTS if part not in args.skip]:
        print(f"-- {part}", file=sys.stderr)
        try:
            if part == "tests":
                told += gpu_parts.tests(check)
            elif part == "ladder":
                told += gpu_parts.ladder(check)
            elif part == "beside":
                found, loop = gpu_parts.beside(check, probe)
                told += found
            else:
                told += gpu_parts.rungs(check, probe, loop)
        except (Failed, SideFailed) as error:
            failed.append(f"{part}: {error}")
    summary = _summary(check, probe, told, failed)
    print(summary)
    (check.results / "gpu-check.txt").write_text(summary + "\n", encoding="utf-8")
    missed = [item for item in told if isinstance(item, Finding) and not item.holds]
    return _EXIT_FAILED if failed else _EXIT_MISSED if missed else 0


def _summary(
    check: Check, probe: Probe, told: Sequence[str | Finding], failed: Sequence[str]
) -> str:
    findings = [item for item in told if isinstance(item, Finding)]
    missed = [item for item in findings if not item.holds]
    head = f"{probe.device_model}, {check.workload.name}, batch {check.batch_size}"
    return "\n".join(
        [
            head,
            *(item for item in told if isinstance(item, str)),
            "",
            *map(str, findings),
            *(f"FAILED  {reason}" for reason in failed),
            f"{len(findings) - len(missed)} of {len(findings)} bounds hold",
        ]
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--model", choices=sorted(MODELS), default="vit-base")
    parser.add_argument("--batch-size", type=int, help="as large as the GPU's memory lets it be")
    parser.add_argument("--results", type=Path, default=gpu_parts.ROOT / "results" / "recorded")
    parser.add_argument("--rung", action="append", default=[], help="to run; else all; repeatable")
    parser.add_argument("--set", action="append", default=[], help="as for bench run; repeatable")
    parser.add_argument("--skip", action="append", default=[], choices=PARTS)
    parser.add_argument("--tests", default="tests", help="file or folder of tests")
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="inside windows, per case")
    parser.add_argument("--pairs", type=int, default=6, help="of loop and harness; 6 for a verdict")
    args = parser.parse_args()
    if args.pairs < 1 or args.launches < 1 or args.seconds <= 0:
        parser.error("--pairs and --launches must be at least 1, --seconds positive")
    args.results.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    sys.exit(main())
