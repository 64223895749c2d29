"""`bench run` from end to end: what it skips, repeats, launches, records and returns."""

from __future__ import annotations

import csv
import io

import orjson
import pytest

from bench.results.record import CheckResult, Outcome
from bench.results.store import Store
from tests.builders import a_case, a_record
from tests.run.driver import Bench

TORCHRUN = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "bench",
)
FLAKY = """\
cases:
  - case: steady
    set: {}
  - case: flaky
    set: { model: flaky:build }
"""
FLAKY_MODEL = """\
from pathlib import Path
import tiny

def build():
    if not Path("repaired").exists():
        raise RuntimeError("not repaired yet")
    return tiny.build()
"""


@pytest.mark.torch
@pytest.mark.slow
class TestResumeAndRepeat:
    def test_resume_skips_what_is_measured_and_retries_what_failed(self, bench: Bench) -> None:
        (bench.cwd / "flaky.py").write_text(FLAKY_MODEL, encoding="utf-8")
        scenario = bench.scenario("again", FLAKY)
        first = bench.run(scenario)
        assert first.code == 4
        assert first.row("flaky")["reason"] == "RuntimeError: not repaired yet"
        (bench.cwd / "repaired").touch()
        second = bench.run(scenario, "--resume")
        assert second.code == 0
        assert second.stderr.count(": launch ") == 1
        assert {row["case"]: row["outcome"] for row in second.rows} == {
            "steady": "ok",
            "flaky": "ok",
        }
        assert second.row("steady")["record"] == first.row("steady")["record"]
        third = bench.run(scenario, "--resume")
        assert (third.code, third.stderr.count(": launch ")) == (0, 0)
        assert len(bench.files()) == 3

    def test_resume_does_not_take_a_run_under_other_flags_for_the_case(self, bench: Bench) -> None:
        scenario = bench.scenario("flagged")
        flags = {"XLA_FLAGS": "--xla_dump_hlo_as_text"}
        launches = [
            bench.run(scenario, "--resume", environment=environment).stderr.count(": launch ")
            for environment in (flags, {}, flags, {})
        ]
        assert launches == [1, 1, 0, 0]

    def test_resume_does_not_take_a_side_of_a_comparison_for_the_case(self, bench: Bench) -> None:
        scenario = bench.scenario("once")
        assert bench.run(scenario).code == 0
        file = bench.results / bench.files()[0]
        file.write_bytes(orjson.dumps(orjson.loads(file.read_bytes()) | {"side": "A"}))
        again = bench.run(scenario, "--resume")
        assert again.stderr.count(": launch ") == 1
        assert len(bench.files()) == 2

    def test_without_resume_everything_runs_again_and_a_record_repeats_its_case(
        self, bench: Bench
    ) -> None:
        first = bench.run(bench.scenario("once"), "--set", "batch_size=3")
        (row,) = first.rows
        repeated = bench.run(row["record"], "--set", "seed=5")
        assert repeated.code == 0, repeated.stderr
        old, new = bench.records()
        assert old.requested.knobs.batch_size == new.requested.knobs.batch_size == 3
        assert (old.requested.knobs.seed, new.requested.knobs.seed) == (0, 5)
        assert old.keys.series == new.keys.series
        assert old.keys.fingerprint != new.keys.fingerprint
        assert old.launches[0].seed != new.launches[0].seed
        assert new.requested.scenario == "once"


class TestReplay:
    """Nothing is launched: a plan shows the backend, and so does one that is not here."""

    def recorded(self, bench: Bench, backend: str) -> str:
        return str(Store(bench.results).append(a_record(a_case(knobs={}), backend=backend)))

    def test_a_record_is_repeated_on_its_own_backend(self, bench: Bench) -> None:
        scenario = bench.scenario("other")
        plan = ("--dry-run", "--format", "json")
        (best,) = bench("run", scenario, *plan).rows
        own = "toy" if best["backend"] != "toy" else "cpu"
        finished = bench("run", self.recorded(bench, own), scenario, *plan)
        assert finished.code == 0, finished.stderr
        assert [row["backend"] for row in finished.rows] == [own, best["backend"]]

    def test_unless_another_is_asked_for(self, bench: Bench) -> None:
        record = self.recorded(bench, "cpu")
        finished = bench("run", record, "--backend", "toy", "--dry-run", "--format", "json")
        assert [row["backend"] for row in finished.rows] == ["toy"]

    def test_a_record_is_held_against_its_like_on_its_own_backend(self, bench: Bench) -> None:
        record = self.recorded(bench, "neuron")
        before = {stored.id for stored in bench.records()}
        finished = bench("ab", record, "--set-b", "batch_size=2", "--format", "json")
        assert finished.code == 4, finished.stderr
        new = [stored for stored in bench.records() if stored.id not in before]
        assert {stored.backend for stored in new} == {"neuron"}

    def test_records_of_two_backends_have_no_common_one(self, bench: Bench) -> None:
        records = [self.recorded(bench, name) for name in ("neuron", "toy")]
        finished = bench("ab", *records)
        assert finished.code == 2
        assert finished.complaints == [
            "bench: bench ab: A is a record of backend neuron and B one of toy; name one for both "
            "with --backend"
        ]


class TestLeftAside:
    def test_resume_tells_of_a_record_that_it_cannot_read(self, bench: Bench) -> None:
        broken = bench.results / "runs/broken.json"
        broken.parent.mkdir(parents=True)
        broken.write_text("{", encoding="utf-8")
        command = ("run", bench.scenario("resumed"), "--backend", "neuron")
        assert "left aside" not in bench(*command).stderr
        finished = bench(*command, "--resume")
        assert finished.code == 4
        assert "left aside: results/runs/broken.json: not JSON, or cut short" in finished.stderr

    @pytest.mark.torch
    @pytest.mark.slow
    def test_resume_tells_of_a_launch_that_was_cut_short(self, bench: Bench) -> None:
        scenario = bench.scenario("resumed")
        (row,) = bench.run(scenario, "--dry-run").rows
        session = bench.results / "scratch/gone"
        session.mkdir(parents=True)
        (session / "owner.lock").touch()
        (session / f"{row['fingerprint']}.jsonl").write_text('{"index": 0', encoding="utf-8")
        finished = bench.run(scenario, "--resume")
        assert finished.code == 0, finished.stderr
        assert "line 1 was cut short and is dropped" in finished.stderr


@pytest.mark.torch
@pytest.mark.slow
class TestRanks:
    def test_two_processes_are_one_launch_whose_samples_are_summed(self, bench: Bench) -> None:
        finished = bench.run(
            bench.scenario("pair"), "--processes", "2", "--set", "task=train", "--launches", "1"
        )
        assert finished.code == 0, finished.stderr
        (row,) = finished.rows
        (record,) = bench.records()
        (launch,) = record.launches
        assert row["processes"] == record.processes == 2
        assert len(launch.window_s) == 2
        assert launch.samples_per_window == 2 * 4 * launch.micro_batches_per_window
        slowest = sum(max(times) for times in zip(*launch.window_s, strict=True))
        samples = launch.samples_per_window * len(launch.window_s[0])
        assert row["samples_per_s"] == pytest.approx(samples / slowest)
        assert launch.actual["engine"] == "ddp"
        assert launch.actual["processes"] == 2
        (check,) = [c for c in launch.audit if c.name == "collectives_real"]
        assert (check.result, check.evidence) == (
            CheckResult.PASS,
            "world 2 of 2, all-reduce of rank + 1 gives 3",
        )

    def test_ddp_over_one_process_is_swept_beside_two(self, bench: Bench) -> None:
        finished = bench.run(
            bench.scenario("alone"),
            *("--set", "engine=ddp", "--sweep", "processes=1,2", "--set", "task=train"),
            *("--set", "gradient_accumulation=2", "--launches", "1"),
        )
        assert finished.code == 0, finished.stderr
        ran = [(r.launches[0].actual["engine"], r.processes) for r in bench.records()]
        assert sorted(ran) == [("ddp", 1), ("ddp", 2)]

    def test_under_torchrun_every_rank_runs_in_place_and_rank_0_records(self, bench: Bench) -> None:
        scenario = bench.scenario("inplace")
        settings = ("--set", "task=train", "--set", "measure.health=true")
        finished = bench.run(scenario, *settings, command=TORCHRUN)
        assert finished.code == 0, finished.stderr
        (row,) = finished.rows
        assert (row["outcome"], row["processes"], row["launches"]) == ("ok", 2, 1)
        (record,) = bench.records()
        assert len(record.launches[0].window_s) == 2
        assert record.health is not None
        assert record.health.learns is None
        assert "run the case with --processes P" in (record.health.reason or "")
        assert bench.processes() == []

    def test_under_torchrun_two_cases_are_one_too_many(self, bench: Bench) -> None:
        scenario = bench.scenario("several", "matrix: { batch_size: [2, 4] }\n")
        finished = bench("run", scenario, "--backend", "toy", command=TORCHRUN)
        assert finished.code != 0
        assert "exitcode  : 2" in finished.stderr
        assert finished.complaints
        assert "these are 2: batch_size=2, batch_size=4" in finished.complaints[0]
        assert "--processes P" in finished.complaints[0]
        assert not bench.results.exists() or bench.files() == []

    def test_under_torchrun_a_backend_that_is_not_there_is_still_a_row(self, bench: Bench) -> None:
        finished = bench("run", bench.scenario("absent"), "--backend", "neuron", command=TORCHRUN)
        assert finished.code != 0
        (record,) = bench.records()
        assert record.outcome is Outcome.UNAVAILABLE
        assert "exitcode  : 4" in finished.stderr

    def test_under_torchrun_a_failure_of_all_ranks_is_recorded_by_rank_0(
        self, bench: Bench
    ) -> None:
        scenario = bench.scenario("broken", "model_kwargs: { fault: raises in build }\n")
        finished = bench("run", scenario, "--backend", "toy", command=TORCHRUN)
        assert finished.code != 0
        (record,) = bench.records()
        assert (record.outcome, record.processes) == (Outcome.CRASH, 2)
        assert (record.reason or "").startswith("ValueError: no weights in <cwd>/weights")


@pytest.mark.torch
@pytest.mark.slow
def test_an_absent_backend_is_a_row_with_its_remedy_and_the_others_are_measured(
    bench: Bench,
) -> None:
    finished = bench.run(bench.scenario("both"), "--backend", "cuda", "--backend", "neuron")
    assert finished.code == 4
    rows = {row["backend"]: row for row in finished.rows}
    assert rows["toy"]["outcome"] == "ok"
    for name in ("cuda", "neuron"):
        assert rows[name]["outcome"] == "unavailable"
        assert rows[name]["reason"]
        assert rows[name]["remedy"]
        assert rows[name]["samples_per_s"] is None


class TestFormats:
    def test_every_format_is_what_it_says(self, bench: Bench) -> None:
        """`unavailable` rows suffice: nothing is launched."""
        scenario = bench.scenario("shown")
        run = ("run", scenario, "--backend", "neuron", "--format")
        (row,) = csv.DictReader(io.StringIO(bench(*run, "csv").stdout))
        assert (row["case"], row["outcome"]) == ("default", "unavailable")
        markdown = bench(*run, "markdown").stdout.splitlines()
        assert [line for line in markdown if line.startswith("|")]
        assert "unavailable" in bench(*run, "rich").stdout
        assert orjson.loads(bench(*run, "json").stdout)["rows"][0]["outcome"] == "unavailable"


class TestDryRun:
    def test_it_prints_the_cases_with_what_stands_in_their_way_and_does_nothing(
        self, bench: Bench
    ) -> None:
        scenario = bench.scenario("planned", "matrix: { channels_last: [false, true] }\n")
        finished = bench.run(
            scenario, "--backend", "neuron", "--sweep", "batch_size=1,2", "--dry-run"
        )
        assert finished.code == 0
        rows = [row for row in finished.rows if row["backend"] == "toy"]
        assert [row["outcome"] for row in rows] == [None, "unsupported", None, "unsupported"]
        assert rows[1]["reason"] == "channels_last=True: a toy has one memory order"
        assert len({row["fingerprint"] for row in finished.rows}) == 8
        assert {row["outcome"] for row in finished.rows if row["backend"] == "neuron"} == {
            "unavailable"
        }
        assert not bench.results.exists()

    def test_every_flag_of_the_plan_arrives_in_it(self, bench: Bench) -> None:
        flags = ("--launches", "7", "--processes", "2")
        (row,) = bench.run(bench.scenario("flags"), *flags, "--dry-run").rows
        assert (row["launches"], row["processes"]) == (7, 2)


@pytest.mark.torch
@pytest.mark.slow
def test_every_flag_arrives_in_the_record(bench: Bench) -> None:
    finished = bench(
        "run",
        bench.scenario("flags"),
        *("--backend", "toy"),
        *("--set", "batch_size=2"),
        *("--sweep", "seed=3"),
        *("--precision-target", "50"),
        *("--set", "measure.launches=3"),
        *("--set", "measure.max_launches=3"),
        *("--budget", "0.3"),
        *("--timeout", "77"),
        *("--results", "elsewhere"),
        *("--format", "json"),
    )
    assert finished.code == 0, finished.stderr
    (row,) = finished.rows
    assert row["record"].startswith("elsewhere/runs/")
    assert row["launches"] == 3
    assert row["precision_reached"] is not None
    assert row["samples_per_s_low"] < row["samples_per_s"] < row["samples_per_s_high"]
    assert (row["knobs"]["batch_size"], row["knobs"]["seed"]) == (2, 3)
    (stored,) = Store(bench.cwd / "elsewhere").records()
    measure = stored.record.requested.measure
    assert (measure.budget_s, measure.timeout_s, measure.precision_target) == (0.3, 77.0, 50.0)
    shown = bench("show", row["record"])
    assert shown.code == 0
    assert "fence_waits" in shown.stdout
    assert not bench.results.exists()


def test_the_best_available_backend_is_the_default(bench: Bench) -> None:
    finished = bench("run", bench.scenario("chosen"), "--dry-run", "--format", "json")
    assert finished.code == 0, finished.stderr
    (row,) = finished.rows
    listed = orjson.loads(bench("list", "backends", "--format", "json").stdout)["rows"]
    assert row["backend"] in {item["name"] for item in listed if item["available"]}
    assert row["backend"] != "toy" or not any(
        item["available"] for item in listed if item["name"] != "toy"
    )
