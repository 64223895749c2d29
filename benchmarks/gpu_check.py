"""Everything that is to be shown on a GPU, in one run: prints one summary, and records the rows.

The tests of the device; the public ladder; timm's own loop beside the harness with that script's
settings, in one sitting; the share of the peak that compiled amp-bf16 reaches, and a profile where
that is too little. It runs on any backend that torch drives eagerly, with a small model too.

Exit code 0: all bounds hold; 1: some are missed, each with its figures, or a part was left out; 2:
usage; 4: a part of it gave no result; 130: interrupted. What was found before a part failed, or
before whatever ended it all, is kept: the summary is printed and written, under the time at which
it began.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gpu_beside
import gpu_parts
import gpu_request
from gpu_bounds import Finding
from gpu_request import PARTS, Check, Failed
from sides import WORKLOADS, SideFailed, Workload

from bench.backends.base import Probe
from bench.backends.registry import Prober
from bench.run import environment
from bench.run.scrubbing import scrub
from bench.scenarios.errors import ScenarioError

VIT_BASE = Workload("vit-base", "vit_base_patch16_224", {}, 224, 1000, 256)
MODELS = {VIT_BASE.name: VIT_BASE, **WORKLOADS}
_EXIT_MISSED, _EXIT_USAGE, _EXIT_FAILED, _EXIT_INTERRUPTED = 1, 2, 4, 130


@dataclass
class Found:
    """What the parts told so far."""

    told: list[str | Finding] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """Parts that gave no result, each with the reason."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Parts that were not run, and why each was not."""

    @property
    def findings(self) -> list[Finding]:
        """The bounds that were judged."""
        return [item for item in self.told if isinstance(item, Finding)]

    @property
    def missed(self) -> list[Finding]:
        """Those of them that do not hold."""
        return [finding for finding in self.findings if not finding.holds]


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
    began, found = dt.datetime.now(dt.UTC), Found(left_out=left_out)
    head = _head(check, probe, began)
    try:
        run(check, probe, parts, found)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    finally:
        summary = _summary(head, found)
        file = check.results / f"gpu-check-{began:%Y%m%dT%H%M%SZ}.txt"
        file.write_text(summary + "\n", encoding="utf-8")
        print(summary)
    if found.failed:
        return _EXIT_FAILED
    return _EXIT_MISSED if found.missed or found.left_out else 0


def run(check: Check, probe: Probe, parts: Sequence[str], found: Found) -> None:
    """Run these parts one after the other.

    Args:
        check: What is asked for.
        probe: The device.
        parts: Their names.
        found: Takes what they find, as it comes, and which of them failed.
    """
    loop: list[float] = []
    for number, part in enumerate(parts):
        print(f"-- {part}", file=sys.stderr)
        try:
            for item in _part(part, check, probe, loop):
                found.told.append(item)
        except (Failed, SideFailed) as error:
            found.failed.append(f"{part}: {error}")
        except BaseException as error:
            found.failed.append(f"{part}: it was ended by {type(error).__name__}")
            found.left_out |= dict.fromkeys(parts[number + 1 :], f"{part} ended all")
            raise


def _part(part: str, check: Check, probe: Probe, loop: list[float]) -> Iterator[str | Finding]:
    match part:
        case "tests":
            return gpu_parts.tests(check)
        case "ladder":
            return gpu_parts.ladder(check, probe)
        case "beside":
            return gpu_beside.beside(check, probe, loop)
        case _:
            return gpu_parts.rungs(check, probe, loop)


def _head(check: Check, probe: Probe, began: dt.datetime) -> list[str]:
    """Return what was run, when, where and by what, without this machine's folders."""
    here = environment.capture(os.environ)
    commit = (here.git_commit or "unknown") + (", with changes" if here.git_dirty else "")
    versions = (f"{name} {version}" for name, version in here.versions.items())
    flags = (f"{name}={value}" for name, value in here.flags.items())
    return [
        f"gpu_check.py of {began:%Y-%m-%d %H:%M:%S} UTC, commit {commit}",
        f"{probe.device_model}, {check.workload.name}, batch {check.batch_size}",
        f"options: {scrub(shlex.join(sys.argv[1:])) or 'none'}",
        f"versions: {', '.join(versions)}",
        f"variables: {' '.join(flags) or 'none'}",
        "",
    ]


def _summary(head: Sequence[str], found: Found) -> str:
    held = len(found.findings) - len(found.missed)
    out = len(found.left_out)
    absent = f", and {out} of {len(PARTS)} parts were not run" if out else ""
    return "\n".join(
        [
            *head,
            *(item for item in found.told if isinstance(item, str)),
            "",
            *map(str, found.findings),
            *(f"FAILED  {reason}" for reason in found.failed),
            *(f"not run {part}: {reason}" for part, reason in found.left_out.items()),
            f"{held} of {len(found.findings)} bounds hold{absent}",
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
