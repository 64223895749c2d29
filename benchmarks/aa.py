"""How often is `bench ab` wrong? Equal sides, a side that does 5 % more, and a busy machine.

All of it is measured with the real command, on the 3 ms ViT with one thread:

- a pool of pairs of two equal sides, from which comparisons are drawn that go through the harness's
  own decision code: how often is one of two equal sides FASTER or SLOWER, and how often SAME?
- a pool of pairs of which B does 5 % more: its environment makes every twentieth training step be
  done twice (`planted_vit.py`). How often is it SLOWER?
- whole runs of either kind, with the defaults of the command.

With --load one core is kept busy by another process meanwhile, and nothing is planted.

Exit code 0: within the bounds; 1: not; 2: usage; 3: within those that could be judged, and the
machine was not quiet; 4: a run failed.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pool import BLOCK, Pool, drawn, rates, stretches
from sides import WORKLOADS

from bench.cli.comparison_commands import PAIRS
from bench.results.comparison import ComparisonVerdict
from bench.results.record import Launch
from bench.results.store import Store

DRAWS = 2000
MOST_FALSE, LEAST_SAME, LEAST_FOUND = 0.05, 0.5, 0.9
VARIABLE, EXTRA = "PLANTED_EVERY", 20
"""Tells `planted_vit.py`, which imports torch, to do one step in so many twice: 5 % more."""
MOST_SLOWED = 0.5
"""Share of pairs in which something slowed the processor, from which on no machine is quiet."""
_EXIT_OUTSIDE, _EXIT_NOT_QUIET, _EXIT_FAILED = 1, 3, 4
_CALLED_SAME = "called SAME"
_SAME, _FASTER, _SLOWER, _, _ = (verdict.value for verdict in ComparisonVerdict)


class RunFailed(Exception):  # noqa: N818 - a result that could not be had, with its reason
    """`bench ab` gave no pairs."""


class Kind(enum.StrEnum):
    """How the two sides differ, and what else the machine does."""

    EQUAL = "equal sides"
    LOADED = "equal sides, one core loaded"
    PLANTED = "B does 5 % more"


@dataclass(frozen=True)
class Part:
    """One of the kinds of sides: its pool, and whole runs."""

    kind: Kind
    pool: Pool
    runs: list[dict[str, Any]]
    """What `bench ab` answered, one row a run."""


class Lab:
    """Runs `bench ab` on the small ViT, in a folder of its own.

    Args:
        folder: For scenarios, records and the interpreter that plants the extra work.
        launch_s: Time inside the windows of a launch. Unit: seconds.
    """

    def __init__(self, folder: Path, launch_s: float) -> None:
        self._folder = folder
        self._launch_s = launch_s
        self._runs = 0
        self._interpreter = folder / "python"
        self._interpreter.write_text(
            f'#!/bin/sh\n{VARIABLE}={EXTRA} exec "{sys.executable}" "$@"\n', encoding="utf-8"
        )
        self._interpreter.chmod(0o755)

    def part(self, kind: Kind, pairs: int, runs: int) -> Part:
        """Measure a pool and some whole runs.

        Raises:
            RunFailed: one of them gave no pairs.
        """
        planted = kind is Kind.PLANTED
        _say(f"{kind}: a pool of {pairs} pairs")
        _, pool = self._run(pairs, planted)
        rows = []
        for number in range(runs):
            _say(f"{kind}: run {number + 1} of {runs}")
            rows.append(self._run(PAIRS, planted)[0])
        return Part(kind, pool, rows)

    def _run(self, pairs: int, planted: bool) -> tuple[dict[str, Any], Pool]:
        self._runs += 1
        results = self._folder / f"results-{self._runs}"
        scenario = str(self._scenario(planted))
        command = [
            *(sys.executable, "-m", "bench", "ab", scenario, scenario, "--backend", "cpu"),
            *("--pairs", str(pairs), "--budget", str(self._launch_s * pairs)),
            *("--results", str(results), "--format", "json", "--no-health"),
            *(("--python-b", str(self._interpreter)) if planted else ()),
        ]
        done = subprocess.run(
            command,
            # The planted model is found in the working directory.
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        # A Python that cannot even start ends with 1 too, and has no answer.
        if done.returncode not in (0, 1, 3) or not done.stdout:
            raise RunFailed(f"bench ab ended with code {done.returncode}:\n{done.stderr[-2000:]}")
        (row,) = orjson.loads(done.stdout)["rows"]
        sides = {item.record.position: item.record.launches for item in Store(results).records()}
        return row, Pool(sides[0], sides[1])

    def _scenario(self, planted: bool) -> Path:
        small = WORKLOADS["small-vit"]
        own = {"name": small.model, "classes": small.classes, **small.model_kwargs}
        path = self._folder / f"{'planted' if planted else 'equal'}.yaml"
        scenario = {
            "schema": 1,
            "name": path.stem,
            "model": "planted_vit:build" if planted else small.model,
            "model_kwargs": own if planted else small.model_kwargs,
            "image_size": small.image_size,
            "classes": small.classes,
            "batch_size": small.batch_size,
            "threads": 1,
            "data": {"source": "cached"},
            "measure": {"diagnostics": False},
        }
        # JSON is YAML.
        path.write_text(json.dumps(scenario), encoding="utf-8")
        return path


@contextlib.contextmanager
def one_core_loaded() -> Iterator[None]:
    """Keep one core busy by another process."""
    load = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        load.kill()
        load.wait()


def measured(args: argparse.Namespace) -> list[Part]:
    """Measure what the command line asks for.

    Raises:
        RunFailed: a run gave no pairs.
    """
    with tempfile.TemporaryDirectory(prefix="bench-aa-") as folder:
        lab = Lab(Path(folder), args.seconds)
        if args.load:
            with one_core_loaded():
                return [lab.part(Kind.LOADED, args.pairs, args.runs)]
        parts = [lab.part(Kind.EQUAL, args.pairs, args.runs)]
        if args.planted_pairs:
            parts.append(lab.part(Kind.PLANTED, args.planted_pairs, args.runs))
        return parts


def judged(part: Part, draws: int) -> tuple[list[str], bool | None]:
    """Return the lines to print about a part, and whether it is within its bounds.

    Null: within those that are judged; one is not, since the machine was not quiet.
    """
    pool = part.pool
    ratios, count = pool.ratios(), min(PAIRS, len(pool))
    lines = [
        f"{part.kind}: {len(pool)} pairs, B / A from {min(ratios):.3f} to {max(ratios):.3f}, "
        f"scatter {pool.scatter():.2%}, {pool.disturbed()} disturbed, the processor slowed for a "
        f"while in {pool.slowed()}"
    ]
    main = rates([pool.decision(places) for places in drawn(len(pool), count, draws)])
    lines.append(f"  {draws} drawn comparisons of {count} pairs: {_shares(main)}")
    found = [pool.decision(places) for places in stretches(len(pool), count)]
    lines.append(f"  all {len(found)} stretches of {count} neighbours: {_shares(rates(found))}")
    unwatched = rates(
        [pool.decision(places, watched=False) for places in drawn(len(pool), count, draws)]
    )
    lines.append(f"  the drawn ones by their ratios alone: {_shares(unwatched)}")
    lines += [f"  a run of bench ab: {_run_line(row)}" for row in part.runs]
    found_out = []
    quiet = pool.slowed() <= MOST_SLOWED * len(pool)
    for what, share, holds, bound in _bounds(part.kind, main, unwatched):
        # Scatter makes an answer rarer, and a wrong one no likelier.
        judgeable = quiet or holds or what != _CALLED_SAME
        found_out.append(holds if judgeable else None)
        said = "holds" if holds else "DOES NOT HOLD" if judgeable else "not judged: not quiet"
        lines.append(f"  {what}: {share:.1%} ({bound}): {said}")
    return lines, all_of(found_out)


def all_of(found: Sequence[bool | None]) -> bool | None:
    """Return false if any is, else null if any is, else true."""
    return False if False in found else None if None in found else True


def _bounds(
    kind: Kind, share: dict[str, float], unwatched: dict[str, float]
) -> Iterator[tuple[str, float, bool, str]]:
    if kind is not Kind.PLANTED:
        # Where the watched ones are all INVALID, only the ratios can be wrong.
        for what, shares in (("", share), (" by their ratios alone", unwatched)):
            wrong = shares[_FASTER] + shares[_SLOWER]
            within = wrong <= MOST_FALSE
            yield f"called FASTER or SLOWER{what}", wrong, within, f"at most {MOST_FALSE:.0%}"
    if kind is Kind.EQUAL:
        same = share[_SAME]
        yield _CALLED_SAME, same, same >= LEAST_SAME, f"at least {LEAST_SAME:.0%}"
    if kind is Kind.PLANTED:
        slower = share[_SLOWER]
        yield "called SLOWER", slower, slower >= LEAST_FOUND, f"at least {LEAST_FOUND:.0%}"


def _shares(share: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in share.items())


def _run_line(row: dict[str, Any]) -> str:
    return (
        f"{row['verdict']} {row['ratio']:.4f} [{row['ratio_low']:.4f}, {row['ratio_high']:.4f}], "
        f"could have seen {row['detectable_pct']:.1f} %, {row['disturbed']} pairs disturbed"
    )


def _save(path: Path, parts: Sequence[Part]) -> None:
    document = [
        {
            "kind": part.kind.value,
            "runs": part.runs,
            **{
                side: [launch.model_dump(mode="json", by_alias=True) for launch in launches]
                for side, launches in (("a", part.pool.a), ("b", part.pool.b))
            },
        }
        for part in parts
    ]
    path.write_bytes(orjson.dumps(document))


def _load(path: Path) -> list[Part]:
    return [
        Part(
            Kind(part["kind"]),
            Pool(*([Launch.model_validate_json(orjson.dumps(x)) for x in part[s]] for s in "ab")),
            part["runs"],
        )
        for part in orjson.loads(path.read_bytes())
    ]


def main() -> int:
    """Measure or load, draw, and print."""
    args = _arguments()
    try:
        parts = _load(args.from_) if args.from_ else measured(args)
    except RunFailed as failed:
        _say(str(failed))
        return _EXIT_FAILED
    if args.save:
        _save(args.save, parts)
    found = []
    for part in parts:
        lines, within = judged(part, args.draws)
        found.append(within)
        print("\n".join(lines))
    return {True: 0, None: _EXIT_NOT_QUIET, False: _EXIT_OUTSIDE}[all_of(found)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How often is `bench ab` wrong?")
    parser.add_argument("--load", action="store_true", help="keep one core busy meanwhile")
    parser.add_argument("--pairs", type=int, default=60, help="in the pool of equal sides")
    parser.add_argument("--planted-pairs", type=int, default=30, help="in the other; 0: none")
    parser.add_argument("--runs", type=int, default=3, help="whole runs of either kind")
    parser.add_argument("--seconds", type=float, default=3.0, help="timed, per launch")
    parser.add_argument("--draws", type=int, default=DRAWS, help="comparisons drawn from a pool")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the raw pools")
    parser.add_argument(
        "--from", dest="from_", type=Path, metavar="FILE", help="measure nothing: read such pools"
    )
    args = parser.parse_args()
    pools = range(4, 101, BLOCK)
    if args.pairs not in pools or args.planted_pairs not in (0, *pools):
        parser.error("a pool has 4 to 100 pairs, an even number")
    if args.runs < 0 or args.draws < 1 or args.seconds <= 0:
        parser.error("--runs, --draws and --seconds must be positive")
    if args.from_ and not args.from_.is_file():
        parser.error(f"--from {args.from_}: there is no such file")
    return args


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
