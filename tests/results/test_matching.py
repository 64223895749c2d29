"""Which records are held against each other, by which design, and what is never divided."""

from __future__ import annotations

import datetime as dt
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.results.compared import Comparison
from bench.results.matching import MatchError, compare, compare_folders, other_work, paired
from bench.results.record import (
    Check,
    CheckResult,
    Device,
    Launch,
    Noise,
    Outcome,
    Record,
    Verdict,
    Weight,
)
from bench.results.store import Stored
from tests.builders import MORNING, a_case, a_launch, a_record, launches_of

BUSY = Noise(co_tenant_share=0.5, reasons=["other processes used 50 %"])
THROTTLED = Check(
    name="clocks_held", result=CheckResult.FAIL, evidence="too hot", weight=Weight.NOISY
)


def stored(record: Record, name: str = "record") -> Stored:
    return Stored(record, Path("results"), Path(f"runs/{name}.json"))


def one(name: str = "default", *samples_per_s: float, **fields: Any) -> Stored:
    """Return a record of its own session with launches of these throughputs."""
    session = fields.pop("session", f"session-of-{name}-{samples_per_s}")
    case = a_case(name, knobs=fields.pop("knobs", None))
    launches = launches_of(*samples_per_s, session=session)
    return stored(a_record(case, launches=launches, session=session, **fields), name)


class TestTwoRecords:
    def test_of_two_sessions_are_compared_one_after_the_other(self) -> None:
        a = one("default", 100.0, 101.0, 99.0, session="monday")
        b = one("default", 90.0, 91.0, 92.0, session="tuesday")
        found = compare(a, b, 2.0)
        assert (found.design, found.method, found.verdict) == (
            "sequential",
            "Welch",
            "looks slower",
        )
        mean = math.exp(
            sum(math.log(y / x) for x, y in zip((100, 101, 99), (90, 91, 92), strict=True)) / 3
        )
        assert found.ratio == pytest.approx(mean)
        assert found.p is not None
        assert found.p < 0.01
        assert found.pairs == []
        error = np.sqrt(sum(np.var(np.log(x), ddof=1) / 3 for x in ((100, 101, 99), (90, 91, 92))))
        half = math.log(found.ratio_high / found.ratio)  # type: ignore[operator]
        margin = float(stats.t.ppf(0.8, found.degrees_of_freedom)) * error
        assert found.detectable_pct == pytest.approx(100 * math.expm1(half + margin))

    def test_of_one_session_are_compared_pair_by_pair(self) -> None:
        """On a machine that slows down by 10 % a round, only pairs tell a 5 % difference."""
        drift = [100 * 0.9**number for number in range(4)]
        a = one("fp32", *drift, session="one")
        b = one("bf16", *(0.95 * value for value in drift), session="one", position=1)
        found = compare(a, b, 2.0)
        assert (found.design, found.verdict, found.disturbed) == ("paired", "SLOWER", 0)
        assert found.ratio == pytest.approx(0.95)
        assert [(pair.round, pair.ratio) for pair in found.pairs] == [
            (number, pytest.approx(0.95)) for number in range(4)
        ]
        apart = compare(one("fp32", *drift, session="a"), one("bf16", *drift, session="b"), 2.0)
        assert apart.verdict == "cannot tell"

    def test_only_rounds_that_both_took_part_in_make_pairs(self) -> None:
        a = stored(a_record(launches=launches_of(100.0, 101.0, 102.0, session="one")))
        late = [
            x.model_copy(update={"round": x.round + 1})
            for x in launches_of(50.5, 51.0, 60.0, session="one")
        ]
        b = stored(a_record("other", launches=late))
        found = compare(a, b, 2.0)
        assert [pair.round for pair in found.pairs] == [1, 2]
        assert found.verdict == "INVALID"
        assert found.reason == "2 of at least 3 pairs were measured"

    @pytest.mark.parametrize("disturbance", [{"noise": BUSY}, {"audit": [THROTTLED]}])
    def test_pairs_in_which_the_machine_was_disturbed_are_counted(
        self, disturbance: dict[str, Any]
    ) -> None:
        def launches(*disturbed: int) -> list[Launch]:
            return [
                a_launch(index=n, session="one", **(disturbance if n in disturbed else {}))
                for n in range(4)
            ]

        a, b = launches(0), launches(0, 1)
        found = compare(stored(a_record("a", launches=a)), stored(a_record("b", launches=b)), 2.0)
        assert (found.verdict, found.disturbed) == ("SAME", 2)
        assert [pair.disturbed for pair in found.pairs] == [True, True, False, False]
        worse = compare(
            stored(a_record("a", launches=launches(0, 2))), stored(a_record("b", launches=b)), 2.0
        )
        assert (worse.verdict, worse.disturbed) == ("INVALID", 3)

    def test_of_other_work_are_refused_with_the_field_and_both_values(self) -> None:
        a = one("default", 1.0, 2.0, knobs={"classes": 10})
        b = one("default", 1.0, 2.0, knobs={"classes": 100})
        with pytest.raises(MatchError, match=r"different work: classes is 10 in A and 100 in B$"):
            compare(a, b, 2.0)

    def test_of_another_method_of_measuring_are_refused(self) -> None:
        a = one("default", 1.0, 2.0, measurement=1)
        b = one("default", 1.0, 2.0)
        with pytest.raises(MatchError, match=r"by method 1 and B by method \d+ \(field measure"):
            compare(a, b, 2.0)

    @pytest.mark.parametrize(("session", "design"), [("one", "paired"), ("two", "sequential")])
    @pytest.mark.parametrize("pretended", ["a", "b", "both", "neither"])
    def test_a_simulated_device_is_never_held_against_a_real_one(
        self, pretended: str, session: str, design: str
    ) -> None:
        def side(name: str, its_session: str) -> Stored:
            simulated = pretended in (name, "both")
            return one(name, 100.0, 101.0, 99.0, session=its_session, simulated=simulated)

        a, b = side("a", "one"), side("b", session)
        if pretended in ("a", "b"):
            with pytest.raises(MatchError, match=f"the device of {pretended.upper()} is simulated"):
                compare(a, b, 2.0)
            return
        found = compare(a, b, 2.0)
        assert (found.design, found.ratio) == (design, pytest.approx(1.0))
        assert found.a is not None
        assert found.b is not None
        assert found.a.simulated is found.b.simulated is (pretended == "both")

    def test_a_side_without_a_number_says_nothing_about_the_other(self) -> None:
        simulated = one("a", 1.0, 2.0, simulated=True)
        gone = stored(a_record("b", outcome=Outcome.UNAVAILABLE, reason="no driver", device=None))
        assert compare(simulated, gone, 2.0).reason == "B has no number (unavailable): no driver"

    @pytest.mark.parametrize("session", ["one", "two"])
    def test_a_suspect_row_is_never_compared(self, session: str) -> None:
        a = one("a", 100.0, 101.0, 99.0, session="one")
        b = one(
            "b",
            *(50.0, 51.0, 52.0),
            session=session,
            verdict=Verdict.SUSPECT,
            verdict_reason="fence_waits: 40 %",
        )
        found = compare(a, b, 2.0)
        assert (found.verdict, found.reason) == ("INVALID", "B is suspect: fence_waits: 40 %")

    def test_a_side_without_a_number_is_told_with_its_reason(self) -> None:
        a = one("a", 100.0, 101.0, 99.0)
        b = stored(a_record("b", outcome=Outcome.OOM, reason="no memory left"))
        found = compare(a, b, 2.0)
        assert (found.design, found.verdict) == (None, "INVALID")
        assert found.reason == "B has no number (oom): no memory left"
        assert found.ratio is None

    def test_two_sides_without_a_number_have_no_verdict(self) -> None:
        gone = [
            stored(a_record(name, outcome=Outcome.UNSUPPORTED, reason="no such thing"))
            for name in ("a", "b")
        ]
        assert compare(gone[0], gone[1], 2.0).verdict is None

    def test_a_noisy_side_is_marked(self) -> None:
        a = one("a", 100.0, 101.0, 99.0, verdict=Verdict.NOISY, verdict_reason="others")
        found = compare(a, one("b", 100.0, 101.0, 99.0), 2.0)
        assert found.noisy
        assert found.a is not None
        assert found.a.verdict == "noisy"

    def test_what_differs_beside_the_result_is_named(self) -> None:
        a = one("a", 1.0, 2.0, knobs={"batch_size": 4}, versions={"torch": "2.9.0"})
        b = one(
            *("b", 1.0, 2.0),
            knobs={"batch_size": 8, "precision": "amp-bf16"},
            versions={"torch": "2.10.0", "torch-xla": "2.10.0"},
            backend="xla",
            device=Device(model="Another CPU", count=1),
        )
        assert compare(a, b, 2.0).differences == [
            "backend: cpu, xla",
            "device: Test CPU, Another CPU",
            "batch_size: 4, 8",
            "precision: fp32, amp-bf16",
            "torch: 2.9.0, 2.10.0",
            "torch-xla: none, 2.10.0",
        ]
        assert compare(a, a, 2.0).differences == []

    @pytest.mark.parametrize(
        ("fields", "difference"),
        [
            ({"git_dirty": True}, "git dirty: none, True"),
            ({"governor": "powersave"}, "governor: none, powersave"),
            ({"cpu_limit": 2.0}, "cpu limit: none, 2.0"),
            ({"memory_limit_bytes": 1024}, "memory limit bytes: none, 1024"),
        ],
    )
    def test_what_differs_in_the_machine_is_named(
        self, fields: dict[str, Any], difference: str
    ) -> None:
        a, b = one("a", 1.0, 2.0), one("b", 1.0, 2.0)
        elsewhere = b.record.environment.model_copy(update=fields)
        b = stored(b.record.model_copy(update={"environment": elsewhere}))
        assert compare(a, b, 2.0).differences == [difference]

    def test_what_differs_in_the_protocol_is_named(self) -> None:
        a = stored(a_record(a_case(measure={"windows": 10})))
        launches = [x.model_copy(update={"in_turns": True}) for x in launches_of(10.0, 11.0)]
        case = a_case(measure={"windows": 200}, knobs={"seed": 3})
        b = stored(a_record(case, launches=launches))
        assert compare(a, b, 2.0).differences == [
            "seed: 0, 3",
            "measure.windows: 10, 200",
            "in turns: False, True",
        ]

    def test_files_differ_in_what_they_say_and_not_in_where_they_lie(self) -> None:
        def told(path: str, digest: str) -> Record:
            case = a_case(knobs={"engine": "deepspeed", "zero": {"config": path}})
            return a_record(case, contents={"zero.config": digest})

        def differences(a: Record, b: Record) -> list[str]:
            rows = compare(stored(a), stored(b), 3.0).differences
            return [row for row in rows if "config" in row]

        one = told("a.json", "0123")
        assert differences(one, told("a.json", "4567")) == ["zero.config: 0123, 4567"]
        assert differences(one, told("b.json", "0123")) == []

    def test_a_fingerprint_that_differs_in_nothing_else_is_told(self) -> None:
        a, b = one("a", 1.0, 2.0), one("b", 1.0, 2.0)
        keys = b.record.keys.model_copy(update={"fingerprint": "of-other-code"})
        b = stored(b.record.model_copy(update={"keys": keys}))
        assert compare(a, b, 2.0).differences == [
            "the protocol or the model's own code, by their fingerprints"
        ]


class TestPaired:
    def test_a_side_that_left_no_record_makes_it_invalid(self) -> None:
        a = one("a", 100.0, 101.0)
        found = paired(a, None, 2.0)
        assert (found.design, found.verdict, found.b) == ("paired", "INVALID", None)
        assert found.reason == "B left no record"
        assert paired(None, None, 2.0, "interrupted").reason == "interrupted"

    def test_an_obstacle_is_told_first_and_the_pairs_are_kept(self) -> None:
        a, b = (one(name, 100.0, 101.0, 99.0, session="one") for name in "ab")
        found = paired(a, b, 2.0, "interrupted after 3 of 10 pairs")
        assert (found.verdict, found.reason) == ("INVALID", "interrupted after 3 of 10 pairs")
        assert found.ratio == pytest.approx(1.0)
        assert len(found.pairs) == 3


def test_treatments_are_no_other_work() -> None:
    plain = a_case().knobs
    assert other_work(plain, a_case(knobs={"batch_size": 2, "precision": "bf16"}).knobs) is None
    assert (
        other_work(plain, a_case(knobs={"classes": 7, "image_size": 32}).knobs)
        == "image_size is none in A and 32 in B; classes is 1000 in A and 7 in B"
    )


class TestFolders:
    def rows(self, a: list[Stored], b: list[Stored]) -> dict[str, Comparison]:
        found = compare_folders(a, b, 2.0)
        return {(row.a or row.b).case: row for row in found if (row.a or row.b)}  # type: ignore[union-attr]

    def test_what_both_hold_is_compared_and_the_rest_is_listed(self) -> None:
        a = [one("both", 100.0, 101.0, 99.0), one("mine", 1.0, 2.0, position=1)]
        b = [one("both", 100.5, 101.0, 99.5), one("theirs", 1.0, 2.0, position=1)]
        rows = compare_folders(a, b, 2.0)
        assert [(row.reason, row.verdict) for row in rows] == [
            ("a change that matters may be there or not: raise --launches", "cannot tell"),
            ("only in A", None),
            ("only in B", None),
        ]
        assert rows[1].b is None
        assert rows[2].a is None

    def test_the_newest_record_of_a_case_counts(self) -> None:
        later = MORNING + dt.timedelta(hours=1)
        a = [one("x", 10.0, 10.1, created=later), one("x", 99.0, 98.0)]
        b = [one("x", 98.0, 99.0), one("x", 20.0, 20.2, created=later)]
        assert self.rows(a, b)["x"].ratio == pytest.approx(2.0)

    def test_a_case_whose_work_changed_is_a_row_with_the_reason(self) -> None:
        a = [one("x", 10.0, 11.0, knobs={"classes": 10})]
        b = [one("x", 10.0, 11.0, knobs={"classes": 20})]
        row = self.rows(a, b)["x"]
        assert (row.design, row.verdict, row.ratio) == (None, "INVALID", None)
        assert row.reason == "A and B do different work: classes is 10 in A and 20 in B"

    def test_a_case_whose_settings_changed_is_compared_and_says_so(self) -> None:
        a = [one("x", 10.0, 10.1, knobs={"batch_size": 4})]
        b = [one("x", 20.0, 20.1, knobs={"batch_size": 8})]
        row = self.rows(a, b)["x"]
        assert (row.verdict, row.differences) == ("looks faster", ["batch_size: 4, 8"])

    def test_one_case_under_several_settings_has_no_partner_among_others(self) -> None:
        a = [one("x", 10.0, 10.1, knobs={"batch_size": size}) for size in (2, 4)]
        b = [one("x", 10.0, 10.2, knobs={"batch_size": size}) for size in (4, 8)]
        found = compare_folders(a, b, 2.0)
        assert [row.differences for row in found if row.design == "sequential"] == [[]]
        assert sorted(row.reason for row in found if row.design is None) == [
            "only in A",
            "only in B",
        ]

    def test_rows_come_in_the_order_of_the_scenarios_and_their_cases(self) -> None:
        names = ("fp32", "amp", "bf16")
        a = [one(name, 1.0, 1.1, position=place) for place, name in enumerate(names)]
        rows = compare_folders(reversed(a), a, 2.0)
        assert [row.a.case for row in rows if row.a] == list(names)
