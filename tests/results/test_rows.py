"""What a row says: the newest record of each case, and a ratio only where it means something."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path

import pytest

from bench.results.matching import compare
from bench.results.prices import Price, Prices
from bench.results.record import (
    Check,
    CheckResult,
    Device,
    Diagnostics,
    Energy,
    Health,
    Launch,
    Outcome,
    Peak,
    Publication,
    Record,
    Straggler,
    Verdict,
    Weight,
)
from bench.results.row import Row
from bench.results.rows import beside, rows_of, rows_of_claims
from bench.results.store import Stored
from tests.builders import MORNING, a_case, a_launch, a_record, launches_of

LATER = MORNING + dt.timedelta(hours=1)


def table(*records: Record, prices: Prices | None = None) -> list[Row]:
    stored = (Stored(r, Path("results"), Path(f"runs/{r.id}.json")) for r in records)
    return rows_of(stored, prices)


def rows_by_case(*records: Record) -> dict[str, Row]:
    return {row.case: row for row in table(*records)}


def first_row(**fields: object) -> Record:
    fields = {"launches": launches_of(10.0, 10.0, 10.0), "position": 0} | fields
    return a_record(a_case("first"), **fields)  # type: ignore[arg-type]


def second_row(knobs: dict[str, object] | None = None, **fields: object) -> Record:
    fields = {"launches": launches_of(20.0, 20.0, 20.0), "position": 1} | fields
    return a_record(a_case("second", knobs=knobs or {"batch_size": 16}), **fields)  # type: ignore[arg-type]


class TestFigures:
    def test_a_row_repeats_what_the_record_says(self) -> None:
        record = a_record(
            a_case("default", remark="as shipped"),
            launches=[
                a_launch(index=0, peak_memory_bytes=100, loader_wait_share=0.25),
                a_launch(index=1, peak_memory_bytes=300, host_peak_rss_bytes=700),
            ],
        )
        (row,) = table(record)
        assert record.statistics is not None
        assert (row.scenario, row.case, row.backend) == ("quick", "default", "cpu")
        assert (row.device, row.processes, row.outcome) == ("Test CPU", 1, "ok")
        assert (row.verdict, row.audit, row.launches) == ("measured", "pass", 2)
        assert row.samples_per_s == record.statistics.samples_per_s
        assert row.samples_per_s_low == record.statistics.samples_per_s_low
        assert row.samples_per_s_high == record.statistics.samples_per_s_high
        assert row.step_ms == pytest.approx(1000.0)
        assert (row.peak_memory_bytes, row.host_peak_rss_bytes) == (300, 700)
        assert row.loader_wait_share == 0.25
        assert row.remark == "as shipped"
        assert row.record == f"results/runs/{record.id}.json"
        assert row.knobs["data.workers"] == 0

    def test_a_row_says_which_software_ran_it_and_whether_its_device_was_pretended(self) -> None:
        pretended = Device(model="simulated core", count=1, flavour="xla")
        rows = rows_by_case(
            a_record("real"), a_record("pretended", device=pretended, simulated=True)
        )
        assert (rows["real"].flavour, rows["real"].simulated) == (None, False)
        assert (rows["pretended"].flavour, rows["pretended"].simulated) == ("xla", True)

    def test_which_software_is_told_where_it_found_no_device_too(self) -> None:
        (row,) = table(
            a_record(device=None, flavour="native", outcome=Outcome.UNAVAILABLE, reason="no device")
        )
        assert (row.flavour, row.device) == ("native", None)

    def test_compiling_is_cold_in_the_first_launch_and_warm_in_those_that_found_the_cache(
        self,
    ) -> None:
        launches = [
            a_launch(index=0, compile_s=30.0, cache="cold"),
            a_launch(index=1, compile_s=4.0, cache="warm"),
            a_launch(index=2, compile_s=6.0, cache="warm"),
        ]
        (row,) = table(a_record(launches=launches))
        assert (row.compile_s, row.compile_cold_s, row.compile_warm_s) == (30.0, 30.0, 5.0)

    def test_a_first_launch_that_found_the_cache_is_not_cold(self) -> None:
        launches = [
            a_launch(index=0, compile_s=4.0, cache="warm"),
            a_launch(index=1, compile_s=30.0, cache="cold"),
        ]
        (row,) = table(a_record(launches=launches))
        assert (row.compile_cold_s, row.compile_warm_s) == (30.0, 4.0)

    def test_where_nothing_reads_a_cache_no_launch_is_warm(self) -> None:
        launches = [a_launch(index=i, compile_s=30.0, cache="none") for i in range(2)]
        (row,) = table(a_record(launches=launches))
        assert (row.compile_cold_s, row.compile_warm_s) == (30.0, None)

    def test_what_is_not_known_is_null(self) -> None:
        (row,) = table(a_record(launches=[a_launch(audit=[])]))
        assert row.audit is None
        assert row.peak_memory_bytes is row.host_peak_rss_bytes is None
        assert row.compile_s is None
        assert row.loader_wait_share is None
        assert row.samples_per_s_low is None

    def test_failed_checks_are_named_once(self) -> None:
        def check(name: str, result: CheckResult) -> Check:
            return Check(name=name, result=result, evidence="figures")

        audits = [
            [check("fence_waits", CheckResult.FAIL), check("loss_finite", CheckResult.PASS)],
            [check("fence_waits", CheckResult.FAIL), check("steady_state", CheckResult.FAIL)],
        ]
        launches = [a_launch(index=i, audit=audit) for i, audit in enumerate(audits)]
        (row,) = table(a_record(launches=launches, verdict=Verdict.SUSPECT))
        assert row.audit == "fail: fence_waits,steady_state"

    def test_checks_that_did_not_apply_are_no_pass(self) -> None:
        skipped = Check(name="fence_waits", result=CheckResult.NOT_APPLICABLE, evidence="no fence")
        (row,) = table(a_record(launches=[a_launch(audit=[skipped])]))
        assert row.audit is None

    def test_a_failure_has_its_outcome_and_reason_and_no_figures(self) -> None:
        (row,) = table(a_record(outcome=Outcome.OOM, reason="17 GiB asked", remedy="less batch"))
        assert (row.outcome, row.reason, row.remedy) == ("oom", "17 GiB asked", "less batch")
        assert row.samples_per_s is row.speedup is row.verdict is None

    def test_a_case_without_a_number_owns_no_figures_of_the_launches_it_had(self) -> None:
        noisy = Check(name="q", result=CheckResult.FAIL, evidence="e", weight=Weight.NOISY)
        energy = Energy(joules=12.0, seconds=0.8, source="a counter")
        launches = launches_of(10.0, energy=energy, audit=[noisy])
        (row,) = table(a_record(outcome=Outcome.INTERRUPTED, reason="^C", launches=launches))
        assert row.launches == 1
        assert row.energy_j_per_sample is row.mfu is row.naive_ratio is row.audit_noise is None

    def test_settings_are_the_knobs_that_differ_from_their_defaults(self) -> None:
        knobs = {"batch_size": 16, "data": {"workers": 2}, "seed": 5}
        (row,) = table(a_record(a_case(knobs=knobs)))
        assert row.settings == "data.workers=2, batch_size=16"
        (row,) = table(a_record(a_case(knobs={"task": "infer"})))
        assert row.settings == "task=infer"

    def test_files_of_one_name_are_told_apart_by_what_they_say(self) -> None:
        case = a_case(knobs={"engine": "accelerate", "accelerate": {"config": "own.yaml"}})
        (row,) = table(a_record(case, contents={"accelerate.config": "0123"}))
        assert row.settings == "engine=accelerate, accelerate.config=own.yaml (0123)"


class TestOverRanks:
    def test_the_exchange_is_that_of_the_launch_which_knows_it(self) -> None:
        told = a_launch(index=1).model_copy(
            update={"diagnostics": Diagnostics(communication_share=0.2)}
        )
        (row,) = table(a_record(launches=[a_launch(), told]))
        assert row.communication_share == 0.2
        assert table(a_record())[0].communication_share is None

    def test_the_worst_straggler_is_told_by_what_shows_most_of_it(self) -> None:
        def launch(index: int, share: float, source: str) -> Launch:
            return a_launch(
                index=index,
                straggler=Straggler.model_validate({"rank": 1, "share": share, "source": source}),
            )

        windows = [launch(i, share, "windows") for i, share in enumerate((0.01, 0.03, 0.02))]
        (row,) = table(a_record(launches=windows))
        assert (row.straggler_share, row.straggler_source) == (0.03, "windows")
        own = launch(3, 0.015, "steps without exchange")
        (row,) = table(a_record(launches=[*windows, own]))
        assert (row.straggler_share, row.straggler_source) == (0.015, "steps without exchange")


class TestWhatItUsed:
    def test_energy_and_utilisation_come_with_their_sources(self) -> None:
        launches = launches_of(
            10.0,
            energy=Energy(joules=12.0, seconds=0.8, source="a counter"),
            flops_per_sample=5e9,
            peak=Peak(flops_per_s=1e12, dtype="bf16", device="H1", source="its data sheet"),
        )
        (row,) = table(a_record(launches=launches))
        assert row.energy_j_per_sample == pytest.approx(1.5)
        assert row.energy_source == "a counter"
        assert row.flops_per_sample == 5e9
        assert row.mfu == pytest.approx(0.05)
        assert row.mfu_source == "1 TFLOP/s, bf16, H1 (its data sheet)"

    def test_cost_follows_from_the_price_file(self) -> None:
        def price(backend: str, currency: str) -> Price:
            return Price(
                instance="box",
                device="Test*",
                backend=backend,
                price_per_hour=3.6,
                currency=currency,
                date="2026-11-01",
                source="price list",
            )

        given = Prices("p.yaml", [price("cpu", "USD"), price("xla", "EUR")])
        records = [a_record(launches=launches_of(10.0), backend=b) for b in ("cpu", "xla", "toy")]
        rows = {row.backend: row for row in table(*records, prices=given)}
        assert rows["cpu"].cost_per_million_samples == pytest.approx(100.0)
        assert rows["cpu"].cost_source == "box at 3.6 USD an hour (2026-11-01, price list)"
        # Two currencies stand beside each other, and neither is converted.
        assert rows["xla"].cost_per_million_samples == pytest.approx(100.0)
        assert [rows[b].currency for b in ("cpu", "xla", "toy")] == ["USD", "EUR", None]
        assert rows["toy"].cost_per_million_samples is None
        (row,) = table(a_record(launches=launches_of(10.0)))
        assert row.cost_per_million_samples is row.currency is row.cost_source is None

    def test_the_naive_clock_stands_beside_the_true_one(self) -> None:
        (launch,) = launches_of(10.0)
        found = Diagnostics(naive_samples_per_s=50.0, naive_fenced_samples_per_s=10.0)
        (row,) = table(a_record(launches=[launch.model_copy(update={"diagnostics": found})]))
        assert row.naive_samples_per_s == 50.0
        assert row.naive_ratio == pytest.approx(5.0)

    def test_what_an_older_record_does_not_hold_is_null(self) -> None:
        (row,) = table(a_record())
        for name in (
            *("learns", "loss_gap", "learned_share", "health_reason", "flops_per_sample", "mfu"),
            *("mfu_source", "energy_j_per_sample", "energy_source", "cost_per_million_samples"),
            *("currency", "cost_source", "naive_samples_per_s", "naive_ratio", "audit_remarks"),
            "audit_noise",
        ):
            assert getattr(row, name) is None, name


class TestTraining:
    def test_a_row_repeats_what_the_health_pass_found(self) -> None:
        health = Health(
            steps=10, loss_gap=4.6, learned_share=0.01, learns=False, reason="its loss stood still"
        )
        (row,) = table(a_record(health=health))
        assert (row.learns, row.loss_gap, row.learned_share) == (False, 4.6, 0.01)
        assert row.health_reason == "its loss stood still"
        assert row.verdict == "measured"


class TestLighterFailures:
    @staticmethod
    def check(weight: Weight, name: str = "a_check") -> Check:
        return Check(name=name, result=CheckResult.FAIL, evidence="9 %", weight=weight)

    def test_are_told_in_words_and_leave_the_audit_passed(self) -> None:
        passed = Check(name="fine", result=CheckResult.PASS, evidence="0 %")
        audit = [passed, self.check(Weight.REMARK), self.check(Weight.NOISY, "another")]
        (row,) = table(a_record(launches=[a_launch(audit=audit)]))
        assert row.audit == "pass"
        assert row.audit_remarks == "a_check: 9 %"
        assert row.audit_noise == "another: 9 %"

    def test_of_several_launches_are_told_once(self) -> None:
        launches = [
            a_launch(index=i, audit=[self.check(Weight.REMARK), self.check(Weight.REMARK, "two")])
            for i in range(3)
        ]
        (row,) = table(a_record(launches=launches))
        assert row.audit_remarks == "a_check: 9 %; two: 9 %"


class TestSpeedup:
    def test_is_that_of_a_comparison_of_the_two_records(self) -> None:
        first = first_row(launches=launches_of(*[10.0] * 10))
        second = second_row(launches=launches_of(*[11.0, 11.1, 10.9] * 3, 5.0))
        row = rows_by_case(first, second)["second"]
        a, b = (Stored(record, Path(), Path("x.json")) for record in (first, second))
        found = compare(a, b, 2.0)
        assert found.method == "trimmed t"
        assert row.speedup == found.ratio
        assert (row.speedup_low, row.speedup_high) == (found.ratio_low, found.ratio_high)

    def test_is_over_the_first_row_from_paired_rounds(self) -> None:
        rows = rows_by_case(
            first_row(launches=launches_of(10.0, 20.0)),
            second_row(launches=launches_of(11.0, 26.0)),
        )
        half = 12.706204736174698 * (math.log(1.3) - math.log(1.1)) / 2
        assert rows["second"].speedup == pytest.approx(math.sqrt(1.1 * 1.3))
        assert rows["second"].speedup_low == pytest.approx(math.sqrt(1.1 * 1.3) / math.exp(half))
        assert rows["second"].speedup_high == pytest.approx(math.sqrt(1.1 * 1.3) * math.exp(half))
        assert rows["second"].speedup_reason is None

    def test_of_the_first_row_is_one_and_has_no_interval(self) -> None:
        row = rows_by_case(first_row(), second_row())["first"]
        assert (row.speedup, row.speedup_low, row.speedup_high) == (1.0, None, None)

    @pytest.mark.parametrize(
        ("first", "second", "reason"),
        [
            (
                first_row(outcome=Outcome.CRASH, launches=None),
                second_row(),
                "the first row has no number",
            ),
            (first_row(verdict=Verdict.SUSPECT), second_row(), "the first row is suspect"),
            (first_row(), second_row(verdict=Verdict.SUSPECT), "this row is suspect"),
            (
                first_row(),
                second_row({"classes": 10, "optimizer": "adam", "batch_size": 4}),
                "other work than the first row: classes, optimizer",
            ),
            (
                first_row(),
                second_row(launches=[a_launch(round=9)]),
                "no round was shared with the first row",
            ),
            (
                first_row(session="yesterday", launches=launches_of(10.0, session="yesterday")),
                second_row(),
                "the first row was not run in the same session",
            ),
            (
                first_row(backend="xla"),
                second_row(),
                "the first row was not run in the same session",
            ),
        ],
    )
    def test_where_it_means_nothing_the_row_says_why(
        self, first: Record, second: Record, reason: str
    ) -> None:
        row = rows_by_case(first, second)["second"]
        assert row.samples_per_s is not None
        assert row.speedup is row.speedup_low is row.speedup_high is None
        assert row.speedup_reason == reason

    def test_a_suspect_first_row_has_no_speedup_either(self) -> None:
        row = rows_by_case(first_row(verdict=Verdict.SUSPECT))["first"]
        assert row.speedup is None
        assert row.speedup_reason == "this row is suspect"

    def test_a_row_without_a_number_gives_its_own_reason_only(self) -> None:
        row = rows_by_case(first_row(), second_row(outcome=Outcome.HANG, launches=None))["second"]
        assert row.reason is not None
        assert row.speedup_reason is None

    @pytest.mark.parametrize(
        ("first", "second", "noisy"),
        [("noisy", "measured", True), ("measured", "noisy", True), ("measured", "measured", False)],
    )
    def test_is_given_and_marked_where_one_side_is_noisy(
        self, first: str, second: str, noisy: bool
    ) -> None:
        rows = rows_by_case(first_row(verdict=Verdict(first)), second_row(verdict=Verdict(second)))
        assert rows["second"].speedup == pytest.approx(2.0)
        assert rows["second"].speedup_noisy is noisy
        assert rows["first"].speedup_noisy is (first == "noisy")

    def test_never_crosses_scenarios(self) -> None:
        other = a_record(a_case("second", scenario="loader"), position=1)
        (row,) = (row for row in table(first_row(), other) if row.scenario == "loader")
        assert row.speedup_reason == "the first row was not run in the same session"

    def test_a_run_resumed_from_an_interrupted_session_pairs_with_the_rounds_it_shared(
        self,
    ) -> None:
        first = first_row(session="old", launches=launches_of(10.0, 10.0, session="old"))
        resumed = second_row(
            session="new",
            launches=[*launches_of(30.0, session="old"), *launches_of(99.0, session="new")],
        )
        assert rows_by_case(first, resumed)["second"].speedup == pytest.approx(3.0)


class TestSelection:
    def test_the_newest_record_of_a_series_is_the_row(self) -> None:
        old = a_record(launches=launches_of(10.0), created=MORNING)
        new = a_record(launches=launches_of(20.0), created=LATER)
        for records in ((old, new), (new, old)):
            (row,) = table(*records)
            assert row.samples_per_s == pytest.approx(20.0)

    def test_time_counts_and_not_how_it_is_written(self) -> None:
        old = a_record(launches=launches_of(10.0))
        old = old.model_copy(update={"created": "2026-11-20T08:00:00Z"})
        new = a_record(launches=launches_of(20.0))
        new = new.model_copy(update={"created": "2026-11-20T08:00:00.500+00:00"})
        assert new.created < old.created
        (row,) = table(new, old)
        assert row.samples_per_s == pytest.approx(20.0)

    def test_another_treatment_or_device_is_another_row(self) -> None:
        assert len(table(a_record(), a_record(a_case(knobs={"batch_size": 4})))) == 2
        assert len(table(a_record(), a_record(device=Device(model="Other CPU", count=1)))) == 2

    def test_a_newer_failure_replaces_an_older_number(self) -> None:
        (row,) = table(a_record(created=MORNING), a_record(outcome=Outcome.CRASH, created=LATER))
        assert row.outcome == "crash"

    def test_a_device_that_was_missing_is_forgotten_once_the_case_has_run(self) -> None:
        missing = {"outcome": Outcome.UNAVAILABLE, "device": None, "reason": "no driver"}
        (row,) = table(a_record(created=MORNING, **missing), a_record(created=LATER))  # type: ignore[arg-type]
        assert row.outcome == "ok"
        rows = table(a_record(created=MORNING), a_record(created=LATER, **missing))  # type: ignore[arg-type]
        assert sorted(row.outcome or "" for row in rows) == ["ok", "unavailable"]

    def test_a_superseded_first_row_still_serves_the_session_it_belongs_to(self) -> None:
        first = first_row(session="old", launches=launches_of(10.0, session="old"))
        second = second_row(session="old", launches=launches_of(20.0, session="old"))
        again = first_row(session="new", launches=launches_of(500.0, session="new"), created=LATER)
        rows = rows_by_case(first, second, again)
        assert rows["first"].samples_per_s == pytest.approx(500.0)
        assert rows["second"].speedup == pytest.approx(2.0)


class TestOrder:
    def test_within_a_session_the_scenarios_own_order_holds(self) -> None:
        records = [
            a_record(a_case(name, knobs={"batch_size": i + 1}), position=i)
            for i, name in enumerate(["zebra", "ant", "middle"])
        ]
        assert [row.case for row in table(*reversed(records))] == ["zebra", "ant", "middle"]

    def test_newer_sessions_and_the_scenarios_they_ran_come_first(self) -> None:
        def run(scenario: str, hour: int, batch_size: int) -> Record:
            return a_record(
                a_case(scenario=scenario, knobs={"batch_size": batch_size}),
                session=f"session-{hour}",
                created=MORNING + dt.timedelta(hours=hour),
            )

        rows = table(run("b", 1, 8), run("a", 0, 8), run("a", 2, 4))
        assert [(row.scenario, row.knobs["batch_size"]) for row in rows] == [
            ("a", 4),
            ("a", 8),
            ("b", 8),
        ]


class TestClaims:
    PUBLICATION = Publication.model_validate_json(
        """{"schema": 1, "kind": "publication",
            "source": {"title": "T", "author": "A", "date": "2024", "locator": "table 1"},
            "claims": [
              {"scenario": "quick", "case": "c", "backend": "neuron", "device": "D",
               "processes": 2, "settings": "s", "samples_per_s": 5.0},
              {"scenario": "other", "case": "c", "backend": "neuron", "device": "D",
               "processes": 2, "settings": "s", "samples_per_s": null}]}"""
    )

    def test_are_claimed_with_their_source_and_never_compared(self) -> None:
        row, without = rows_of_claims([self.PUBLICATION])
        assert (row.verdict, row.samples_per_s) == ("claimed", 5.0)
        assert row.source == 'A, "T", 2024: table 1'
        assert row.speedup is row.samples_per_s_low is row.outcome is None
        assert (without.samples_per_s, without.reason) == (None, "the source gives no number")

    def test_stand_after_what_was_measured_of_their_scenario(self) -> None:
        measured = table(a_record(), a_record(a_case(scenario="third")))
        rows = beside(measured, rows_of_claims([self.PUBLICATION]))
        scenarios = [row.scenario for row in rows]
        at = scenarios.index("quick")
        assert scenarios[at : at + 2] == ["quick", "quick"]
        assert [rows[at].verdict, rows[at + 1].verdict] == ["measured", "claimed"]
        assert scenarios[-1] == "other"
