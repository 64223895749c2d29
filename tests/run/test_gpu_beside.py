"""The check for whoever has a GPU: timm's loop beside the harness, and what either side may do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from bench.backends.base import Probe
from bench.results.record import Check, CheckResult, Weight
from bench.scenarios.schema import Knobs
from tests.builders import a_launch
from tests.run.test_gpu_parts import HERE


class TestBeside:
    @pytest.fixture
    def timed(
        self,
        benchmarks: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        check_asked: Callable[..., Any],
    ) -> Callable[..., Any]:
        """Return what runs the part with draws that are taken from here, not measured."""
        beside, sides = benchmarks("gpu_beside"), benchmarks("sides")

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
                collect(beside.beside(check_asked(pairs=pairs, settings=["threads=1"]), HERE, loop))
            except sides.SideFailed as error:
                failure = str(error)
            return told, loop, failure, drawn

        return run

    def test_both_do_what_the_case_says(
        self, benchmarks: Callable[[str], ModuleType], timed: Callable[..., Any]
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
        rates = [arguments[name] for name in ("learning-rate", "momentum", "weight-decay")]
        assert rates == [knobs.learning_rate, knobs.momentum, knobs.weight_decay]
        assert once == (arguments, [*flags, "--wait-once"], 1)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"precision": "fp8-rowwise"}, "knows no fp8-rowwise with compile=inductor"),
            ({"optimizer": "adam", "momentum": None}, "knows no optimizer=adam"),
            ({"gradient_accumulation": 2}, "does not know gradient_accumulation=2"),
            ({"optimizer_impl": "fused"}, "does not know optimizer_impl=fused"),
            ({"compile_mode": "max-autotune"}, "does not know compile_mode=max-autotune"),
            ({"data": {"source": "cached"}}, r"does not know data\.source=cached"),
            ({"processes": 2}, "does not know engine=ddp, processes=2"),
        ],
    )
    def test_a_case_that_the_loop_cannot_do_is_told(
        self,
        benchmarks: Callable[[str], ModuleType],
        check_asked: Callable[..., Any],
        changes: dict[str, Any],
        message: str,
    ) -> None:
        beside = benchmarks("gpu_beside")
        knobs = beside.knobs_of(check_asked())
        asked_for = knobs.model_dump(exclude={"engine", "compile_mode", "optimizer_impl", "data"})
        plain = {**asked_for, "data": {"source": "device"}}
        assert beside.as_loop(Knobs.model_validate(plain), "cuda")[0]["device"] == "cuda"
        other = Knobs.model_validate(plain | changes)
        with pytest.raises(benchmarks("gpu_request").Failed, match=message):
            beside.as_loop(other, "cuda")

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
        assert "not timed the loop has one batch of images" in text
        assert "its learning rate is 0.0001" in text
        assert f"timm's loop {' '.join(['200'] * 6)} samples/s" in text
        assert f"harness {' '.join(['200'] * 6)} samples/s" in text

    def test_a_draw_that_fails_leaves_the_pairs_that_were_made(
        self, timed: Callable[..., Any]
    ) -> None:
        # The 20th draw is the harness's in the seventh pair, whose loop has its rate already.
        told, loop, failure, _ = timed(8, fails_at=20)
        assert failure == "it fell over"
        assert len(loop) == 7
        assert told[-1].holds
        assert "over 6 pairs" in told[-1].figures

    def test_an_interrupted_draw_leaves_them_too(
        self,
        benchmarks: Callable[[str], ModuleType],
        monkeypatch: pytest.MonkeyPatch,
        check_asked: Callable[..., Any],
    ) -> None:
        beside, sides = benchmarks("gpu_beside"), benchmarks("sides")

        def interrupted(*_: Any, number: int, **__: Any) -> Any:
            if number == 1:
                raise KeyboardInterrupt
            return sides.HarnessValue(198.0)

        monkeypatch.setattr(beside, "script", lambda *_, **__: {"samples_per_s": 200.0})
        monkeypatch.setattr(beside, "harness", interrupted)
        told: list[Any] = []
        with pytest.raises(KeyboardInterrupt):
            told.extend(beside.beside(check_asked(pairs=3), HERE, []))
        assert told[-1].figures == "0.990 over 1 pairs"

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
    benchmarks: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    check_asked: Callable[..., Any],
) -> None:
    sides = benchmarks("sides")
    audit = [
        Check(name=name, result=result, evidence="so", weight=weight)
        for name, result, weight in (
            ("fence_waits", CheckResult.FAIL, Weight.SUSPECT),
            ("machine_quiet", CheckResult.FAIL, Weight.NOISY),
            ("steady_state", CheckResult.PASS, Weight.SUSPECT),
        )
    ]
    monkeypatch.setattr(sides.launching, "run", lambda *_: a_launch(audit=audit))
    knobs = benchmarks("gpu_beside").knobs_of(check_asked())
    found = sides.harness(HERE, knobs, seconds=1.0, seed=0, number=0)
    assert found.failed_checks == ["fence_waits", "machine_quiet"]
    assert found.suspect_checks == ["fence_waits"]


class TestScript:
    @pytest.mark.parametrize("printed", ["", "no figure", "[1, 2]", "3"])
    def test_a_last_line_that_is_no_result_is_a_failure_of_that_side(
        self, benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, printed: str
    ) -> None:
        sides = benchmarks("sides")
        command = [sys.executable, "-c", f"print('log'); print({printed!r}, end='')"]
        monkeypatch.setattr(sides, "command", lambda *_: command)
        message = r"loop\.py ended well, and its last line is no result"
        with pytest.raises(sides.SideFailed, match=message):
            sides.script("loop.py", {})

    def test_the_last_line_is_read(
        self, benchmarks: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sides = benchmarks("sides")
        command = [sys.executable, "-c", "print('log'); print('{\"samples_per_s\": 2.5}')"]
        monkeypatch.setattr(sides, "command", lambda *_: command)
        assert sides.script("loop.py", {}) == {"samples_per_s": 2.5}
