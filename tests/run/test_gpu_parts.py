"""The check for whoever has a GPU: what it refuses to be asked, and what a failed part leaves."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bench.backends.base import Probe
from bench.results.record import Check, CheckResult, Weight
from bench.scenarios.errors import ScenarioError
from tests.builders import a_launch
from tests.run.test_gpu_check import BENCHMARKS, a_row

HERE = Probe(
    backend="cpu", available=True, device_model="Test CPU", device_count=1, facts={"cxx": "g++"}
)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def asked(module: Callable[[str], ModuleType], tmp_path: Path) -> Callable[..., Any]:
    """Return a maker of what the command line asks for."""
    request, sides = module("gpu_request"), module("sides")

    def check(**changes: Any) -> Any:
        plain = {
            "backend": "cpu",
            "workload": sides.WORKLOADS["small-vit"],
            "batch_size": 16,
            "results": tmp_path,
            "rungs": [],
            "settings": [],
            "tests": "tests",
            "launches": 1,
            "seconds": 0.5,
            "pairs": 2,
        }
        return request.Check(**(plain | changes))

    return check


class TestRequest:
    def test_each_scenario_runs_the_cases_of_its_own(
        self, module: Callable[[str], ModuleType], asked: Callable[..., Any]
    ) -> None:
        request = module("gpu_request")
        check = asked(rungs=["baseline", "compiled, fused", "fp8", "tf32"])
        assert request.cases_asked(check, "vit-ladder") == ["baseline", "fp8"]
        assert request.cases_asked(check, str(request.RUNGS)) == ["compiled, fused", "tf32"]
        assert request.left_out(check, []) == {}

    def test_a_scenario_of_which_none_is_named_is_not_run(
        self, module: Callable[[str], ModuleType], asked: Callable[..., Any]
    ) -> None:
        left_out = module("gpu_request").left_out
        ladder = {"ladder": "no --rung names a case of vit-ladder"}
        assert left_out(asked(rungs=["compiled"]), []) == ladder
        assert left_out(asked(rungs=["baseline"]), []) == {
            "rungs": "no --rung names a case of gpu_rungs"
        }
        assert left_out(asked(), []) == {}
        assert left_out(asked(rungs=["compiled"]), ["tests"]) == {"tests": "--skip"} | ladder

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"rungs": ["compiled", "compield"]}, r"--rung compield: .*did you mean compiled\?"),
            ({"settings": ["batch_size=4"]}, r"--set batch_size: .*; use --batch-size"),
            ({"settings": ["measure={launches: 2}"]}, r"--set measure\.launches: .*--launches"),
            ({"settings": ["image_size=64"]}, r"--set image_size: .*; use --model"),
            ({"settings": ["seed=7"]}, r"--set seed: timm's loop.*or that part with --skip beside"),
            ({"settings": ["threads=many"]}, r"--set threads: "),
            ({"settings": ["threads"]}, r"--set: 'threads' is not of the form"),
        ],
    )
    def test_what_cannot_be_honoured_is_refused_before_anything_runs(
        self,
        module: Callable[[str], ModuleType],
        asked: Callable[..., Any],
        changes: dict[str, Any],
        message: str,
    ) -> None:
        request = module("gpu_request")
        with pytest.raises(ScenarioError, match=message):
            request.refuse(asked(**changes), request.PARTS)

    def test_the_rest_is_not(
        self, module: Callable[[str], ModuleType], asked: Callable[..., Any]
    ) -> None:
        request = module("gpu_request")
        request.refuse(asked(), request.PARTS)
        check = asked(rungs=["compiled"], settings=["threads=1", "measure.health=false"])
        request.refuse(check, request.PARTS)
        request.refuse(asked(settings=["seed=7"]), ["ladder", "rungs"])

    def test_a_rung_that_is_none_ends_the_command_with_2(
        self,
        module: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
    ) -> None:
        results = tmp_path / "recorded"
        command = ["gpu_check.py", "--rung", "typo", "--results", str(results)]
        monkeypatch.setattr("sys.argv", command)
        assert module("gpu_check").main() == 2
        assert "--rung typo: is a case of neither scenario" in capsys.readouterr().err
        assert not results.exists()


class TestSummary:
    @pytest.mark.parametrize(
        ("skipped", "code", "last"),
        [
            ([], 0, "1 of 1 bounds hold"),
            (["--skip", "tests"], 1, "1 of 1 bounds hold, and 1 of 4 parts were not run"),
        ],
    )
    def test_what_was_not_run_is_named_and_is_no_success(
        self,
        module: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        skipped: list[str],
        code: int,
        last: str,
    ) -> None:
        check, bounds = module("gpu_check"), module("gpu_bounds")
        held = bounds.Finding("something holds", True, "by these figures")
        monkeypatch.setattr(check.Prober, "probe", lambda *_: HERE)
        monkeypatch.setattr(check, "run", lambda *_: ([held], []))
        command = ["gpu_check.py", "--results", str(tmp_path / "recorded"), *skipped]
        monkeypatch.setattr("sys.argv", command)
        assert check.main() == code
        lines = (tmp_path / "recorded/gpu-check.txt").read_text(encoding="utf-8").splitlines()
        assert lines[-1] == last
        assert ("not run tests: --skip" in lines) is bool(skipped)

    def test_what_a_part_found_before_it_failed_stays_and_the_others_run(
        self,
        module: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        asked: Callable[..., Any],
    ) -> None:
        check, parts, sides = module("gpu_check"), module("gpu_parts"), module("sides")
        rows = [a_row(mfu=0.1, energy_j_per_sample=None, loss_gap=None)]

        def broken(*_: Any) -> list[str]:
            raise sides.SideFailed("profile_steps.py ended with exit code 1")

        monkeypatch.setattr(parts, "_run", lambda *_: (rows, 0))
        monkeypatch.setattr(parts, "_profile", broken)
        told, failed = check.run(asked(), HERE, ["rungs", "ladder"])
        assert failed == ["rungs: profile_steps.py ended with exit code 1"]
        bounds = [str(item) for item in told if not isinstance(item, str)]
        assert [bound.split(",")[0].split(":")[0] for bound in bounds] == [
            "holds   gpu-rungs",
            "MISSED  amp-bf16",
            "holds   vit-ladder",
        ]
        assert sum(str(item).startswith("compiled ") for item in told) == 2


class TestBeside:
    @pytest.fixture
    def timed(
        self,
        module: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        asked: Callable[..., Any],
    ) -> Callable[..., Any]:
        """Return what runs the part with draws that are taken from here, not measured."""
        beside, sides = module("gpu_beside"), module("sides")

        def run(
            pairs: int, *, fails_at: int | None = None, suspect: tuple[str, ...] = ()
        ) -> tuple[list[Any], list[float], str | None, list[Any]]:
            drawn: list[Any] = []

            def draw(what: Any) -> None:
                drawn.append(what)
                if len(drawn) == fails_at:
                    raise sides.SideFailed("it fell over")

            def script(_: str, arguments: Any, *, flags: list[str], threads: Any) -> Any:
                draw((dict(arguments), flags, threads))
                return {"samples_per_s": 204.0 if "--wait-once" in flags else 200.0}

            def harness(_: Probe, knobs: Any, **__: Any) -> Any:
                draw(knobs)
                return sides.HarnessValue(200.0, [*suspect, "machine_quiet"], list(suspect))

            monkeypatch.setattr(beside, "script", script)
            monkeypatch.setattr(beside, "harness", harness)
            told: list[Any] = []
            loop: list[float] = []
            failure = None

            def collect(items: Iterator[Any]) -> None:
                for item in items:
                    told.append(item)  # noqa: PERF402 - as the check does it

            try:
                collect(beside.beside(asked(pairs=pairs, settings=["threads=1"]), HERE, loop))
            except sides.SideFailed as error:
                failure = str(error)
            return told, loop, failure, drawn

        return run

    def test_both_do_what_the_case_says(
        self, module: Callable[[str], ModuleType], timed: Callable[..., Any]
    ) -> None:
        *_, (loop, knobs, once) = timed(1)
        assert (knobs.precision, knobs.compile, knobs.channels_last) == (
            "amp-bf16",
            "inductor",
            True,
        )
        assert (knobs.optimizer, knobs.momentum, knobs.data.source) == ("sgd", 0.9, "device")
        assert (knobs.batch_size, knobs.image_size, knobs.threads) == (16, 32, 1)
        arguments, flags, threads = loop
        assert flags == ["--amp", "--channels-last", "--compile"]
        assert (arguments["optimizer"], arguments["batch-size"], threads) == ("sgd", 16, 1)
        assert once == (arguments, [*flags, "--wait-once"], 1)

    def test_a_case_that_the_loop_cannot_do_is_told(
        self, module: Callable[[str], ModuleType], asked: Callable[..., Any]
    ) -> None:
        beside = module("gpu_beside")
        knobs = beside.knobs_of(asked())
        other = knobs.model_copy(update={"precision": "fp8-rowwise"})
        with pytest.raises(module("gpu_request").Failed, match="knows no fp8-rowwise"):
            beside.as_loop(other, "cuda")
        assert beside.as_loop(knobs, "cuda")[0]["device"] == "cuda"

    def test_of_the_differences_only_the_waiting_has_a_figure(
        self, timed: Callable[..., Any]
    ) -> None:
        told, loop, failure, _ = timed(6)
        assert failure is None
        assert loop == [200.0] * 6
        *lines, finding = told
        assert finding.holds
        text = " ".join("\n".join(lines).split())
        assert "Without that it reads 1.020 times as much (median of 6" in text
        assert "not timed the loop has one batch" in text

    def test_a_draw_that_fails_leaves_the_pairs_that_were_made(
        self, timed: Callable[..., Any]
    ) -> None:
        # The 20th draw is the harness's in the seventh pair, whose loop has its rate already.
        told, loop, failure, _ = timed(8, fails_at=20)
        assert failure == "it fell over"
        assert len(loop) == 7
        assert told[-1].holds
        assert "over 6 pairs" in told[-1].figures

    def test_where_none_was_made_nothing_is_judged(self, timed: Callable[..., Any]) -> None:
        told, loop, failure, _ = timed(6, fails_at=1)
        assert (loop, failure) == ([], "it fell over")
        assert all(isinstance(item, str) for item in told)
        assert "What that costs was not timed." in told[-1]

    def test_a_suspect_launch_is_missed_with_its_name_and_a_noisy_one_is_not(
        self, timed: Callable[..., Any]
    ) -> None:
        told, *_ = timed(6, suspect=("fence_waits",))
        assert not told[-1].holds
        assert "fence_waits failed 6 times" in told[-1].figures
        assert "machine_quiet" not in told[-1].figures


def test_the_harness_tells_which_failed_checks_make_its_value_suspect(
    module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, asked: Callable[..., Any]
) -> None:
    sides = module("sides")
    audit = [
        Check(name=name, result=result, evidence="so", weight=weight)
        for name, result, weight in (
            ("fence_waits", CheckResult.FAIL, Weight.SUSPECT),
            ("machine_quiet", CheckResult.FAIL, Weight.NOISY),
            ("steady_state", CheckResult.PASS, Weight.SUSPECT),
        )
    ]
    monkeypatch.setattr(sides.launching, "run", lambda *_: a_launch(audit=audit))
    knobs = module("gpu_beside").knobs_of(asked())
    found = sides.harness(HERE, knobs, seconds=1.0, seed=0, number=0)
    assert found.failed_checks == ["fence_waits", "machine_quiet"]
    assert found.suspect_checks == ["fence_waits"]
