"""Everything that is to be shown on a GPU, in one run: prints one summary, and records the rows.

The tests of the device; the public ladder; timm's own loop beside the harness with that script's
settings, in one sitting; the share of the peak that compiled amp-bf16 reaches, and a profile where
that is too little. It runs on any backend that torch drives eagerly, with a small model too.

Exit code 0: all bounds hold; 1: some are missed, each with its figures, or a part was left out; 2:
usage; 4: a part of it gave no result. What a part found before it failed is kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import gpu_beside
import gpu_parts
import gpu_request
from gpu_bounds import Finding
from gpu_request import PARTS, Check, Failed
from sides import WORKLOADS, SideFailed, Workload

from bench.backends.base import Probe
from bench.backends.registry import Prober
from bench.scenarios.errors import ScenarioError

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
    try:
        left_out = gpu_request.left_out(check, args.skip)
        parts = [part for part in PARTS if part not in left_out]
        gpu_request.refuse(check, parts)
    except ScenarioError as error:
        print(error, file=sys.stderr)
        return _EXIT_USAGE
    probe = Prober().probe(check.backend)
    if not probe.available:
        print(f"{check.backend} is not available: {probe.reason}; {probe.remedy}", file=sys.stderr)
        return _EXIT_USAGE
    check.results.mkdir(parents=True, exist_ok=True)
    told, failed = run(check, probe, parts)
    summary = _summary(check, probe, told, failed, left_out)
    print(summary)
    (check.results / "gpu-check.txt").write_text(summary + "\n", encoding="utf-8")
    missed = [item for item in told if isinstance(item, Finding) and not item.holds]
    return _EXIT_FAILED if failed else _EXIT_MISSED if missed or left_out else 0


def run(check: Check, probe: Probe, parts: Sequence[str]) -> tuple[list[str | Finding], list[str]]:
    """Run these parts; returns what they found, and which of them failed, with the reason."""
    told: list[str | Finding] = []
    loop: list[float] = []
    failed: list[str] = []
    for part in parts:
        print(f"-- {part}", file=sys.stderr)
        try:
            for item in _part(part, check, probe, loop):
                told.append(item)  # noqa: PERF402 - one by one: a later one may fail
        except (Failed, SideFailed) as error:
            failed.append(f"{part}: {error}")
    return told, failed


def _part(part: str, check: Check, probe: Probe, loop: list[float]) -> Iterator[str | Finding]:
    match part:
        case "tests":
            return gpu_parts.tests(check)
        case "ladder":
            return gpu_parts.ladder(check)
        case "beside":
            return gpu_beside.beside(check, probe, loop)
        case _:
            return gpu_parts.rungs(check, probe, loop)


def _summary(
    check: Check,
    probe: Probe,
    told: Sequence[str | Finding],
    failed: Sequence[str],
    left_out: Mapping[str, str],
) -> str:
    findings = [item for item in told if isinstance(item, Finding)]
    missed = [item for item in findings if not item.holds]
    head = f"{probe.device_model}, {check.workload.name}, batch {check.batch_size}"
    absent = f", and {len(left_out)} of {len(PARTS)} parts were not run" if left_out else ""
    return "\n".join(
        [
            head,
            *(item for item in told if isinstance(item, str)),
            "",
            *map(str, findings),
            *(f"FAILED  {reason}" for reason in failed),
            *(f"not run {part}: {reason}" for part, reason in left_out.items()),
            f"{len(findings) - len(missed)} of {len(findings)} bounds hold{absent}",
        ]
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--backend", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--model", choices=sorted(MODELS), default="vit-base")
    parser.add_argument("--batch-size", type=int, help="as large as the GPU's memory lets it be")
    parser.add_argument("--results", type=Path, default=gpu_request.ROOT / "results" / "recorded")
    parser.add_argument("--rung", action="append", default=[], help="to run; else all; repeatable")
    told = "as for bench run, in every row; the pairs take threads alone; repeatable"
    parser.add_argument("--set", action="append", default=[], help=told)
    told = "a part, and with it exit code 0; repeatable"
    parser.add_argument("--skip", action="append", default=[], choices=PARTS, help=told)
    parser.add_argument("--tests", default="tests", help="file or folder of tests")
    parser.add_argument("--launches", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="inside windows, per case")
    parser.add_argument("--pairs", type=int, default=6, help="of loop and harness; 6 for a verdict")
    args = parser.parse_args()
    if args.batch_size is not None and args.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    if args.pairs < 1 or args.launches < 1 or args.seconds <= 0:
        parser.error("--pairs and --launches must be at least 1, --seconds positive")
    return args


if __name__ == "__main__":
    sys.exit(main())
