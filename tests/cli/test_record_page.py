"""A record as a page: its order, its figures, and that it stays readable on any terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from bench.cli.record_page import write_page
from bench.results.prices import Price, Prices
from bench.results.record import (
    Check,
    CheckResult,
    Clocks,
    Device,
    DeviceSteps,
    Diagnostics,
    Energy,
    Health,
    Inspection,
    Latency,
    Launch,
    Noise,
    Outcome,
    Peak,
    Phase,
    Record,
    Straggler,
    Verdict,
    Weight,
)
from bench.results.store import Stored
from bench.scenarios.errors import ScenarioError
from tests.builders import a_case, a_launch, a_record, launches_of

FAIL, PASS, NA = CheckResult.FAIL, CheckResult.PASS, CheckResult.NOT_APPLICABLE
PRICE = Price(
    instance="box",
    device="Test CPU",
    price_per_hour=3.6,
    currency="USD",
    date="2026-11-01",
    source="price list",
)
HEALTH = Health(steps=10, loss_first=6.9, loss_last=2.3, loss_gap=0.01, learns=True)


def page(record: Record, width: int = 100, prices: Prices | None = None) -> list[str]:
    """Return the lines of a page, without the spaces that fill them up."""
    out = io.StringIO()
    write_page(Stored(record, Path("results"), Path("a.json")), out, prices=prices, width=width)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def section(lines: list[str], title: str) -> list[str]:
    """Return the lines below a title, up to the next empty one."""
    at = lines.index(title) + 1
    return [line.strip() for line in lines[at : lines.index("", at)]]


def a_check(name: str, result: CheckResult, evidence: str, **fields: Any) -> Check:
    return Check(name=name, result=result, evidence=evidence, **fields)


def full_launch(index: int = 0, **fields: Any) -> Launch:
    """Return a launch that holds every figure a launch can hold, at 10 samples/s."""
    launch = a_launch(
        index=index,
        window_s=[[0.8, 0.8], [0.7, 0.8]],
        compile_s=30.0 if index == 0 else 4.0,
        cache="cold" if index == 0 else "warm",
        peak_memory_bytes=3 * 2**30,
        host_peak_rss_bytes=2**30,
        memory_window_bytes=[2**30, 2**30 + 2**29],
        energy=Energy(joules=16.0, seconds=1.6, source="a counter of the device"),
        clocks=Clocks(source="its driver", mhz_min=1350.0, mhz_max=1980.0, throttled=["power"]),
        flops_per_sample=5e9,
        peak=Peak(flops_per_s=1e12, dtype="bf16", device="H1", source="its data sheet"),
        noise=Noise(co_tenant_share=0.012, steal_share=0.0, reasons=["it was loud"]),
        voided_windows=2,
        dropped_windows=1,
        inspection=Inspection(
            matmul_types={"bf16": 39},
            matmul_source="the traced graph",
            matmul_error=0.0016,
            matmul_format="bf16",
            batches_seen=16,
            batches_distinct=15,
            input_deviation=1.0,
            gradient_kept=0.5,
            skipped=["something: was skipped"],
        ),
        straggler=Straggler(rank=1, share=0.125, source="steps without exchange"),
        actual={"engine": "ddp", "world": 2},
        **fields,
    )
    found = Diagnostics(
        loader_wait_share=0.25,
        device_twin_samples_per_s=12.5,
        doubling_ratio=1.98,
        naive_samples_per_s=50.0,
        naive_fenced_samples_per_s=10.0,
        naive_step_ms_median=0.5,
        latency=Latency(steps=40, p50_ms=1.0, p95_ms=2.0, p99_ms=None),
        communication_share=0.25,
        communication_shares=[0.24, 0.25, 0.3],
        alone_s=[0.7, 0.9],
        device_steps=DeviceSteps(
            steps=40, p50_ms=9.5, p95_ms=9.75, p99_ms=None, sum_s=0.4, host_s=0.5
        ),
        skipped=["nothing else"],
    )
    return launch.model_copy(update={"diagnostics": found})


def a_suspect(**fields: Any) -> Record:
    audit = [
        a_check("fence_waits", FAIL, "298 ms were left"),
        a_check("steady_state", PASS, "it settled"),
        a_check("loader_bound", FAIL, "43 % waiting", weight=Weight.REMARK),
        a_check("machine_quiet", FAIL, "others used 12 %", weight=Weight.NOISY),
        a_check("no_fallbacks", NA, "there is no other device"),
    ]
    case = a_case("steps-per-graph", scenario="vit-ladder", knobs={"processes": 2})
    launches = [full_launch(audit=audit), full_launch(1, audit=[audit[1]])]
    return a_record(
        case,
        launches=launches,
        verdict=Verdict.SUSPECT,
        verdict_reason="fence_waits: 298 ms were left",
        health=HEALTH,
        **fields,
    )


class TestOrder:
    def test_the_verdict_stands_first_and_the_knobs_last(self) -> None:
        lines = page(a_suspect(id="01abc"))
        titles = [
            line
            for before, line in zip(["", *lines], lines, strict=False)
            if before == "" and line and not line.startswith(" ")
        ]
        assert titles == [
            "vit-ladder / steps-per-graph",
            "Do not believe this number.",
            "The number",
            "Would a naive clock have misled?",
            "Does it still learn?",
            "What it used, were the number true",
            "Audit",
            "Launch 0",
            "Launch 1",
            "Software",
            "Knobs",
        ]
        assert lines[1] == "cpu: Test CPU, 2 processes, 2026-11-20 08:00 UTC, record 01abc"

    def test_the_verdict_gives_the_checks_paragraph_and_what_it_found(self) -> None:
        told = " ".join(" ".join(section(page(a_suspect()), "Do not believe this number.")).split())
        assert "`fence_waits` failed." in told
        assert "what must hold After the fence nothing is left to wait for" in told
        assert "what was found in 1 of 2 launches: 298 ms were left." in told
        assert "worth knowing loader_bound: 43 % waiting." in told

    def test_the_readme_shows_such_a_page(self) -> None:
        readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
        shown = readme.partition("whether it can be believed:\n\n```\n")[2].partition("\n```")[0]
        before, _, after = " ".join(shown.split()).partition(" ... ")
        found = "median residual 298.000 ms after windows of 650.0 ms (limit 6.500 ms)"
        bad, good = a_check("fence_waits", FAIL, found), a_check("fence_waits", PASS, "0.1 %")
        launches = [
            a_launch(index=i, window_s=[[0.65]], audit=[check])
            for i, check in enumerate([bad, good, bad])
        ]
        record = a_record(
            a_case("steps-per-graph", scenario="vit-ladder"),
            launches=launches,
            verdict=Verdict.SUSPECT,
            id="0kv3m1c8h2",
        )
        text = " ".join(" ".join(page(record)).split())
        assert before
        assert text.startswith(before)
        assert after in text


class TestFigures:
    def test_the_number_comes_with_its_interval_and_its_launches(self) -> None:
        record = a_record(launches=launches_of(10.0, 11.0, 12.0))
        told = section(page(record), "The number")
        assert told == [
            "verdict    measured",
            "samples/s  10.97 [8.75, 13.76] (95 % interval, 3 launches)",
            "launches   10.00, 11.00, 12.00",
            "a step     731.3 ms on average",
        ]

    def test_of_one_launch_there_is_no_interval(self) -> None:
        told = section(page(a_record(launches=launches_of(10.0))), "The number")
        assert told[1] == "samples/s  10.00 (no interval, 1 launch)"
        assert not any(line.startswith("launches") for line in told)

    def test_what_it_used_is_told_with_sources(self) -> None:
        record = a_suspect().model_copy(
            update={"verdict": Verdict.NOISY, "device": Device(model="Test CPU", count=1)}
        )
        told = section(page(record, prices=Prices("p", [PRICE])), "What it used")
        # 2 launches of 2 windows with 8 samples each in 0.8 s: 10 samples/s, 32 J, 32 samples.
        # 10 x 5e9 FLOP/s on 2 devices of 1e12: 2.5 %. A million samples at 3.6 an hour: 100.
        assert told == [
            "device memory  3.00 GiB",
            "host memory    1.00 GiB of a training process, at most",
            "energy         1.000 J a sample (a counter of the device)",
            "FLOPs          5 GFLOP a sample, forward and backward",
            "MFU            2.5 % of 1 TFLOP/s, bf16, H1 (its data sheet)",
            "cost           100.0 USD a million samples: box at 3.6 USD an hour (2026-11-01, price "
            "list)",
            "loader         25.0 % of the time waiting for batches",
        ]

    def test_the_operations_of_inference_are_those_of_the_forward_pass(self) -> None:
        record = a_record(a_case(knobs={"task": "infer"}), launches=[full_launch()])
        told = section(page(record), "What it used")
        assert "FLOPs          5 GFLOP a sample, forward" in told

    def test_what_is_unknown_says_why_and_is_never_zero(self) -> None:
        lines = page(a_record())
        told = section(lines, "What it used")
        assert told == [
            "device memory  unknown: the device's runtime keeps no count, or the system does not "
            "let it begin",
            "anew after the warm-up",
            "energy         unknown: an older version measured it, without energy",
            "MFU            unknown: the FLOPs of a sample are not known",
            "cost           unknown: give a price file with --prices",
        ]
        other = Prices("p", [PRICE.model_copy(update={"device": "Other"})])
        told = section(page(a_record(), prices=other), "What it used")
        assert told[-1] == (
            "cost           unknown: the price file has no price for this device and backend"
        )

    def test_a_side_of_a_comparison_says_so_and_that_it_took_turns(self) -> None:
        launches = [one.model_copy(update={"in_turns": True}) for one in launches_of(10.0, 11.0)]
        lines = page(a_record(launches=launches, side="B", id="abc"))
        assert lines[1].endswith("record abc, side B of a comparison")
        (place,) = [line for line in section(lines, "Launch 0") if line.startswith("place")]
        assert place.endswith("no compile cache, in turns with a launch of the other side")

    def test_a_known_count_of_the_host_leaves_the_device_without_one(self) -> None:
        launches = [
            one.model_copy(update={"host_peak_rss_bytes": 2**30}) for one in launches_of(9.0)
        ]
        told = section(page(a_record(launches=launches)), "What it used")
        assert told[0] == "device memory  unknown: the device's runtime keeps no count"

    def test_two_prices_for_its_device_are_refused(self) -> None:
        with pytest.raises(ScenarioError, match=r"prices\[0\] \(box\) and prices\[1\] \(box\)"):
            page(a_record(), prices=Prices("p", [PRICE, PRICE]))

    def test_a_launch_tells_everything_it_holds(self) -> None:
        told = section(page(a_suspect(), width=140), "Launch 0")
        assert told == [
            "value       10.00 samples/s",
            "place       round 0, seed 0, a cold compile cache",
            "phases      import 2.00 s, build 0.50 s, first step 1.00 s, warm up 1.00 s, measure "
            "3.00 s",
            "warm-up     4 steps, 1 leading window counted as warm-up, 2 windows voided by a "
            "compilation, 1 compilation",
            "that took 30.0 s",
            "windows     rank 0, of 1 step, ms: 800 800",
            "rank 1, of 1 step, ms: 700 800",
            "ranks       rank 1 takes longest, 12.5% more than the mean (from steps without "
            "exchange)",
            "memory      1.00 GiB after the first window, 1.50 GiB after the last",
            "clocks      1350 to 1980 MHz (its driver); held back by power",
            "machine     1.2% of the processors used by others, 0.0% taken by the hypervisor",
            "it was loud",
            "diagnosis   25.0% of the time waiting for the loader",
            "12.50 samples/s with batches on the device",
            "twice the work takes 1.98 times as long",
            "25.0% of a step is exchange between ranks that nothing hides (pairs: 24.0%, 25.0%, "
            "30.0%)",
            "a block without that exchange, by rank, ms: 700 900",
            "latency over 40 fenced steps: p50 1.00 ms, p95 2.00 ms",
            "40 steps by the device's own clock: p50 9.500 ms, p95 9.750 ms; 80.0% of the host's "
            "time",
            "nothing else",
            "inspection  products and convolutions of a period: 39 in bf16 (the traced graph)",
            "a product of fp32 matrices under the same flags is off by 1.6e-03, as in bf16",
            "15 of 16 batches were distinct",
            "the pixels that the model was given deviate by 1.000",
            "the optimizer was given 50.0% of the gradients' norm",
            "something: was skipped",
            "what ran    engine=ddp, world=2",
        ]

    def test_an_exchange_that_is_lost_in_the_scatter_is_given_no_share_of_a_step(self) -> None:
        found = Diagnostics(communication_share=-0.02, communication_shares=[0.1, -0.02, -0.1])
        launch = a_launch().model_copy(update={"diagnostics": found})
        told = section(page(a_record(launches=[launch]), width=140), "Launch 0")
        assert any("adds less to a step than blocks of steps scatter" in line for line in told)
        assert not any("of a step is exchange" in line for line in told)

    def test_several_devices_have_a_batch_each_and_one_together(self) -> None:
        knobs = {"processes": 2, "batch_size": 8, "gradient_accumulation": 2}
        told = section(page(a_record(a_case(knobs=knobs))), "The number")
        assert "a batch    32 samples: 16 on each of 2 devices" in told
        assert not any(
            line.startswith("a batch") for line in section(page(a_record()), "The number")
        )


class TestAudit:
    def test_failures_come_first_and_passes_take_a_line_each(self) -> None:
        told = section(page(a_suspect()), "Audit")
        heads = [line for line in told if ": " in line.partition(" ")[0] + " "]
        assert heads[:4] == [
            "failed: fence_waits (in 1 of 2 launches)",
            "disturbed: machine_quiet (in 1 of 2 launches)",
            "remark: loader_bound (in 1 of 2 launches)",
            "passed: 1",
        ]
        at = told.index("passed: 1")
        assert told[at + 1 :] == [
            "steady_state  it settled",
            "not applicable: 1",
            "no_fallbacks  there is no other device",
        ]

    def test_each_failure_has_its_figures_and_its_paragraph_once(self) -> None:
        text = " ".join(" ".join(page(a_suspect())).split())
        assert text.count("After the fence nothing is left to wait for") == 1
        assert text.count("Nobody else used the processors that this launch may use.") == 1
        assert text.count("others used 12 %") == 1


class TestFailures:
    RECORD = a_record(
        outcome=Outcome.CRASH,
        phase=Phase.BUILD,
        reason="it fell over",
        remedy="get up",
        log_tail='Traceback:\n  File "x.py"\n\tindented \x1b[31m[bold]red[/bold]',
    )

    def test_a_case_without_a_number_has_its_reason_its_remedy_and_its_log(self) -> None:
        lines = page(self.RECORD)
        assert section(lines, "There is no number.") == [
            "It crashed in the phase `build`.",
            "It fell over.",
            "what to do  get up.",
        ]
        at = lines.index("The last lines of its log")
        assert lines[at + 1 : at + 4] == [
            "  Traceback:",
            '    File "x.py"',
            "          indented  [31m[bold]red[/bold]",
        ]
        for title in ("The number", "Would a naive clock have misled?", "Audit"):
            assert title not in lines


class TestReadability:
    HOSTILE = "a [bold red]b[/] \x1b[31mc\nd :boom:"

    @pytest.mark.parametrize("width", [40, 80, 100, 140])
    @pytest.mark.parametrize("record", [a_suspect(), a_record(), TestFailures.RECORD])
    def test_no_line_is_wider_than_the_terminal(self, record: Record, width: int) -> None:
        lines = page(record, width)
        assert max(len(line) for line in lines) <= min(width, 110)

    @pytest.mark.parametrize("width", [80, 140])
    def test_no_name_and_no_figure_is_broken(self, width: int) -> None:
        text = " ".join(" ".join(page(a_suspect(), width)).split())
        for words in ("device memory", "steady_state", "298 ms were left", "1.000 J a sample"):
            assert words in text

    def test_text_from_a_record_is_shown_as_text(self) -> None:
        said = self.HOSTILE
        launch = full_launch(
            audit=[a_check(said, FAIL, said), a_check("x", PASS, said), a_check("y", NA, said)]
        )
        inspection = Inspection(matmul_types={said: 1}, matmul_source=said, skipped=[said])
        launch = launch.model_copy(
            update={
                "actual": {said: said},
                "inspection": inspection,
                "energy": Energy(reason=said),
                "noise": Noise(reasons=[said]),
                "clocks": Clocks(source=said, throttled=[said]),
            }
        )
        record = a_record(
            a_case(said, scenario=said, knobs={"processes": 2, "model_kwargs": {"k": said}}),
            launches=[launch],
            device=Device(model=said, count=1),
            verdict=Verdict.SUSPECT,
            verdict_reason=said,
            health=HEALTH.model_copy(update={"reason": said}),
            versions={"torch": said},
        )
        text = "\n".join(page(record))
        assert "\x1b" not in text
        assert "[bold red]b[/]" in text
        assert ":boom:" in text
        assert text.count("[31mc d :boom:") >= 12

    def test_a_line_of_a_record_never_starts_a_section(self) -> None:
        record = a_record(outcome=Outcome.CRASH, reason="x\nThe number\n", log_tail="The number")
        assert "The number" not in page(record)
