"""The store: a record is there whole or not at all, and nothing a reader meets stops it."""

from __future__ import annotations

import datetime as dt
import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results import store as store_module
from bench.results.record import Outcome, Phase, Record
from bench.results.store import Store, StoreError, load, new_id
from tests.builders import a_record

EVENING = dt.datetime(2026, 11, 20, 23, 30, 5, tzinfo=dt.UTC)


def created_at(time: str) -> bytes:
    return orjson.dumps(a_record().model_dump(mode="json", by_alias=True) | {"created": time})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def everything_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


class TestAppend:
    def test_a_record_comes_back_as_it_was_written(self, store: Store) -> None:
        record = a_record()
        store.append(record)
        (stored,) = store.records()
        assert stored.record == record
        assert store.problems == []

    def test_a_failure_comes_back_as_it_was_written(self, store: Store) -> None:
        record = a_record(outcome=Outcome.OOM, phase=Phase.BUILD, reason="out of memory: 17 GiB")
        store.append(record)
        assert [stored.record for stored in store.records()] == [record]

    def test_the_file_is_named_by_its_utc_time_and_id_in_the_folder_of_its_day(
        self, store: Store
    ) -> None:
        path = store.append(a_record(created=EVENING, id="0abc"))
        assert path == store.root / "runs/2026/11/20/20261120T233005Z-0abc.json"

    def test_what_ran_on_a_simulated_device_lies_in_a_results_folder_of_its_own(
        self, store: Store
    ) -> None:
        real, simulated = a_record(), a_record(simulated=True)
        for record in (real, simulated):
            store.append(record)
        assert [stored.record for stored in store.records()] == [real]
        inside = Store(store.root / "simulated")
        assert [stored.record for stored in inside.records()] == [simulated]
        assert [stored.record for stored in store.simulated().records()] == [simulated]

    def test_it_is_not_read_where_nothing_real_was_recorded_yet(self, store: Store) -> None:
        store.append(a_record(simulated=True))
        assert list(store.records()) == []
        assert store.problems == []

    def test_nothing_but_the_record_is_left_in_the_folder(self, store: Store) -> None:
        path = store.append(a_record())
        assert everything_below(store.root) == [str(path.relative_to(store.root))]

    def test_a_record_is_never_written_over_another(self, store: Store) -> None:
        path = store.append(a_record(id="0abc"))
        before = path.read_bytes()
        with pytest.raises(StoreError, match="never overwritten"):
            store.append(a_record("another", id="0abc"))
        assert path.read_bytes() == before
        assert everything_below(store.root) == [str(path.relative_to(store.root))]

    def test_without_hard_links_a_record_is_written_all_the_same_and_never_over_another(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(store_module.os, "link", refuse)
        record = a_record(id="0abc")
        path = store.append(record)
        assert load(path) == record
        with pytest.raises(StoreError, match="never overwritten"):
            store.append(a_record("another", id="0abc"))
        assert load(path) == record
        assert everything_below(store.root) == [str(path.relative_to(store.root))]

    def test_a_figure_that_json_cannot_carry_is_refused_before_it_is_written(
        self, store: Store
    ) -> None:
        record = a_record()
        assert record.statistics is not None
        broken = record.model_copy(
            update={
                "statistics": record.statistics.model_copy(update={"samples_per_s": float("nan")})
            }
        )
        with pytest.raises(ValueError, match="samples_per_s"):
            store.append(broken)
        assert list(store.records()) == []


class TestWriteErrors:
    @pytest.mark.parametrize(
        ("code", "remedy"),
        [
            (errno.ENOSPC, "the disk is full: free some space"),
            (errno.EDQUOT, "the disk quota is used up"),
            (errno.EROFS, "read-only file system"),
            (errno.EACCES, "this user may not write there"),
            (errno.EIO, "choose another folder"),
        ],
    )
    @pytest.mark.parametrize("call", ["write", "fsync"])
    def test_each_names_the_folder_and_the_remedy_and_leaves_nothing_half_written(
        self,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        code: int,
        remedy: str,
        call: str,
    ) -> None:
        def fail(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(store_module.os, call, fail)
        for attempt in (lambda: store.append(a_record()), store.check_writable):
            with pytest.raises(StoreError) as caught:
                attempt()
            assert str(store.root) in str(caught.value)
            assert remedy in str(caught.value)
            assert "--results" in str(caught.value)
        assert everything_below(store.root) == []

    def test_a_short_write_is_continued(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        really_write = os.write
        monkeypatch.setattr(store_module.os, "write", lambda fd, data: really_write(fd, data[:100]))
        record = a_record()
        assert load(store.append(record)) == record

    def test_a_file_in_the_way_of_the_results_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "results").write_text("mine")
        with pytest.raises(StoreError, match="a file stands where a folder is needed"):
            Store(tmp_path / "results").check_writable()

    def test_a_file_in_the_way_of_the_runs_is_named(self, store: Store) -> None:
        store.root.mkdir()
        (store.root / "runs").write_text("mine")
        with pytest.raises(StoreError, match="a file stands where a folder is needed"):
            store.check_writable()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_read_only_folder_is_found_out_before_anything_is_measured(
        self, store: Store
    ) -> None:
        store.root.mkdir()
        store.root.chmod(stat.S_IRUSR | stat.S_IXUSR)
        try:
            with pytest.raises(StoreError, match="change its permissions"):
                store.check_writable()
        finally:
            store.root.chmod(stat.S_IRWXU)

    def test_a_folder_that_can_be_written_passes_and_stays_clean(self, store: Store) -> None:
        store.check_writable()
        assert everything_below(store.root) == []


class TestReading:
    def test_records_come_in_the_order_of_their_time(self, store: Store) -> None:
        times = [EVENING + dt.timedelta(days=d) for d in (40, 0, 3)]
        for time in times:
            store.append(a_record(created=time))
        read = [stored.record.created for stored in store.records()]
        assert read == [time.isoformat() for time in sorted(times)]

    def test_an_empty_or_missing_folder_has_no_records_and_no_problems(self, store: Store) -> None:
        assert list(store.records()) == []
        store.root.mkdir()
        assert list(store.records()) == []
        assert store.problems == []

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "not JSON, or cut short"),
            (b'{"schema": 1, "kind": "run", ', "not JSON, or cut short"),
            (b"\xff\xfe\x00", "not JSON, or cut short"),
            (b"[1, 2]", "not a record of this program"),
            (b'"text"', "not a record of this program"),
            (b'{"name": "package.json"}', "not a record of this program"),
            (b'{"schema": 2, "kind": "run"}', "written by a newer version (schema 2"),
            (b'{"schema": 1, "kind": "publication"}', "holds a 'publication', not a run"),
            (b'{"schema": 1, "kind": "run"}', "not a valid record: tool_version: Field required"),
            (created_at("yesterday"), "created: Value error, not a time in UTC, as in 2026-11-20T"),
            (created_at("2026-11-20T08:00:00"), "not a time in UTC"),
            (created_at("2026-11-20T08:00:00+09:00"), "not a time in UTC"),
            (created_at("2026-11-31T08:00:00Z"), "day is out of range for month"),
            (created_at("2026-11-20T25:00:00Z"), "hour must be in 0..23"),
        ],
    )
    def test_a_file_that_is_no_record_is_reported_skipped_and_kept(
        self, store: Store, content: bytes, reason: str
    ) -> None:
        good = store.append(a_record())
        bad = good.with_name("00000000T000000Z-bad.json")
        bad.write_bytes(content)
        assert [stored.location for stored in store.records()] == [good]
        (problem,) = store.problems
        assert problem.path == bad
        assert reason in problem.reason
        assert str(bad) not in problem.reason
        assert bad.read_bytes() == content

    def test_a_record_cut_short_at_any_byte_is_never_taken_for_one(self, store: Store) -> None:
        path = store.append(a_record())
        whole = path.read_bytes()
        for length in range(0, len(whole) - 2, 97):
            path.write_bytes(whole[:length])
            assert list(store.records()) == []
            assert len(store.problems) == 1

    def test_a_field_that_this_version_does_not_know_is_named(self, store: Store) -> None:
        path = store.append(a_record())
        path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"extra": 1}))
        with pytest.raises(StoreError, match="extra: Extra inputs are not permitted"):
            load(path)

    def test_problems_are_those_of_the_latest_scan(self, store: Store) -> None:
        bad = store.append(a_record())
        bad.write_text("{")
        for _ in range(2):
            assert list(store.records()) == []
            assert len(store.problems) == 1
        bad.unlink()
        assert list(store.records()) == []
        assert store.problems == []

    def test_temporary_files_and_other_names_are_ignored(self, store: Store) -> None:
        path = store.append(a_record())
        path.with_name(f".{path.name}-1234.tmp").write_text("{")
        path.with_name(".hidden.json").write_text("{")
        path.with_name("notes.txt").write_text("hello")
        assert len(list(store.records())) == 1
        assert store.problems == []

    def test_a_json_name_that_cannot_be_opened_is_reported(self, store: Store) -> None:
        path = store.append(a_record())
        path.with_name("dangling.json").symlink_to("nowhere")
        assert len(list(store.records())) == 1
        assert [problem.reason for problem in store.problems] == ["No such file or directory"]

    def test_a_file_whose_name_is_no_utf8_is_read_and_can_be_printed(self, store: Store) -> None:
        good = store.append(a_record())
        for prefix, content in ((b"good", good.read_bytes()), (b"bad", b"{")):
            Path(os.fsdecode(os.fsencode(good.parent) + b"/" + prefix + b"-\xff.json")).write_bytes(
                content
            )
        assert len(list(store.records())) == 2
        (problem,) = store.problems
        assert str(problem) == (
            f"{good.parent}/bad-\N{REPLACEMENT CHARACTER}.json: not JSON, or cut short: "
            + problem.reason.partition("short: ")[2]
        )

    def test_folders_are_read_through_links_and_each_once(
        self, store: Store, tmp_path: Path
    ) -> None:
        day = store.append(a_record(id="here")).parent
        archive = Store(tmp_path / "archive").append(a_record(id="there")).parent
        (store.root / "runs/archive").symlink_to(archive)
        (store.root / "runs/latest").symlink_to(day)
        assert sorted(stored.record.id for stored in store.records()) == ["here", "there"]
        assert store.problems == []

    def test_links_that_go_in_a_circle_end(self, store: Store) -> None:
        day = store.append(a_record()).parent
        (day / "up").symlink_to(store.root)
        (day / "self").symlink_to(day)
        (day / "itself").symlink_to("itself")
        assert len(list(store.records())) == 1
        assert store.problems == [
            store_module.Problem(day / "itself", "the link cannot be followed")
        ]

    def test_a_linked_folder_that_is_gone_is_reported(self, store: Store) -> None:
        path = store.append(a_record())
        gone = store.root / "runs/2025"
        gone.symlink_to("/nowhere/2025")
        assert [stored.location for stored in store.records()] == [path]
        assert store.problems == [store_module.Problem(gone, "the link cannot be followed")]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everywhere")
    def test_a_results_folder_that_may_not_be_read_is_reported(self, store: Store) -> None:
        store.append(a_record())
        store.root.chmod(0)
        try:
            assert list(store.records()) == []
        finally:
            store.root.chmod(stat.S_IRWXU)
        reason = "the folder cannot be read: Permission denied"
        assert store.problems == [store_module.Problem(store.root, reason)]

    def test_a_plain_folder_of_records_is_read_too(self, store: Store, tmp_path: Path) -> None:
        path = store.append(a_record())
        plain = tmp_path / "sent-by-a-colleague"
        plain.mkdir()
        path.rename(plain / "run.json")
        (stored,) = Store(plain).records()
        assert stored.path == Path("run.json")

    def test_the_numbers_of_others_and_of_other_machines_are_not_ours(self, tmp_path: Path) -> None:
        for folder in ("published", "recorded/some-cpu/runs", "scratch/session"):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "file.json").write_text("{")
        store = Store(tmp_path)
        assert list(store.records()) == []
        assert store.problems == []


class TestFind:
    def test_by_path_by_path_in_the_store_by_id_and_by_the_beginning_of_an_id(
        self, store: Store
    ) -> None:
        record = a_record(id="0abc1234")
        path = store.append(record)
        store.append(a_record(id="0abd1234"))
        for reference in (
            str(path),
            str(path.relative_to(store.root)),
            "0abc1234",
            "0abc",
        ):
            assert store.find(reference).record == record
            assert store.find(reference).location == path

    def test_a_whole_id_wins_over_one_that_continues_it(self, store: Store) -> None:
        short, long = a_record(id="0abc"), a_record(id="0abcd")
        store.append(long)
        store.append(short)
        assert store.find("0abc").record == short

    def test_an_ambiguous_beginning_lists_what_it_could_be(self, store: Store) -> None:
        for id_ in ("0abc1", "0abc2"):
            store.append(a_record(id=id_))
        with pytest.raises(StoreError, match=r"2 records .*\(0abc1, 0abc2\): give more of the id"):
            store.find("0abc")

    @pytest.mark.parametrize("reference", ["zzz", "", "no/such/file.json", "x" * 5000])
    def test_what_names_nothing_is_said_so(self, store: Store, reference: str) -> None:
        store.append(a_record())
        with pytest.raises(StoreError, match="no record"):
            store.find(reference)

    def test_a_named_file_that_is_no_record_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "package.json").write_text("{}")
        with pytest.raises(StoreError, match="not a record of this program"):
            Store(tmp_path).find(str(tmp_path / "package.json"))

    def test_a_record_elsewhere_keeps_its_place(self, store: Store, tmp_path: Path) -> None:
        path = store.append(a_record()).rename(tmp_path / "run.json")
        assert store.find(str(path)).location == path


class TestIds:
    @given(st.datetimes(dt.datetime(1980, 1, 1), dt.datetime(2200, 1, 1)), st.integers(2, 10**9))
    def test_ids_sort_as_their_times(self, first: dt.datetime, later_ms: int) -> None:
        early = first.replace(tzinfo=dt.UTC)
        late = early + dt.timedelta(milliseconds=later_ms)
        assert new_id(early) < new_id(late)

    def test_ids_of_one_moment_differ(self) -> None:
        assert len({new_id(EVENING) for _ in range(1000)}) == 1000

    def test_an_id_is_short_and_safe_in_a_file_name(self) -> None:
        assert len(new_id(EVENING)) == 18
        assert new_id(EVENING).isalnum()


@given(st.text(max_size=200), st.floats(1e-9, 1e9), st.integers(1, 4))
def test_any_text_and_any_time_survives_the_store(text: str, time: float, ranks: int) -> None:
    from tests.builders import a_launch

    record = a_record(
        launches=[a_launch(window_s=[[time]] * ranks)], log_tail=text, verdict_reason=text
    )
    encoded = store_module._encode(record)
    assert Record.model_validate_json(encoded) == record


class TestRealFileSystems:
    """A mount of its own, in a namespace that ends with the process."""

    SCRIPT = """
import os, sys
from pathlib import Path
from bench.results.store import Store, StoreError
from tests.builders import a_record
store = Store(Path(sys.argv[1]))
for attempt in (store.check_writable, lambda: store.append(a_record())):
    try:
        attempt()
    except StoreError as error:
        print(error)
print([name for _, _, names in os.walk(sys.argv[1]) for name in names if name != "ballast"])
"""

    def run_on(self, folder: Path, options: str, before: str = "true") -> list[str]:
        folder.mkdir()
        mount = f"mount -t tmpfs -o {options} tmpfs '{folder}' && cd '{folder}' && ({before})"
        command = [sys.executable, "-c", self.SCRIPT, str(folder)]
        inside = f'{mount} && cd "{Path(__file__).parents[2]}" && exec "$@"'
        unshare = ["unshare", "--map-root-user", "--mount"]
        trial = [*unshare, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
        if shutil.which("unshare") is None or subprocess.run(trial, check=False).returncode:
            pytest.skip("no mounts of our own here")
        done = subprocess.run(
            [*unshare, "sh", "-c", inside, "sh", *command],
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def test_a_disk_that_is_full_is_said_and_nothing_half_written_is_left(
        self, tmp_path: Path
    ) -> None:
        # Room for the folders, and then for no record.
        fill = "dd if=/dev/zero of=ballast bs=1k count=128 2>/dev/null || true"
        check, append, left = self.run_on(tmp_path / "full", "size=64k", fill)
        for message in (check, append):
            assert message.startswith(f"cannot write to the results folder {tmp_path / 'full'}")
            assert "the disk is full: free some space" in message
        assert left == "[]"

    def test_a_read_only_file_system_is_said(self, tmp_path: Path) -> None:
        check, append, left = self.run_on(tmp_path / "fixed", "size=64k,ro")
        for message in (check, append):
            assert "Read-only file system" in message
            assert "choose another folder with --results" in message
        assert left == "[]"
