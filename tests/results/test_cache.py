"""The cache of a results folder: whole or absent, and never a reason to fail."""

from __future__ import annotations

from pathlib import Path

from bench.results.cache import Cache
from bench.results.store import Store
from tests.builders import a_record


def test_what_was_kept_is_found_by_another_session(tmp_path: Path) -> None:
    Cache(tmp_path, "health").put("key", b"one")
    assert Cache(tmp_path, "health").get("key") == b"one"
    assert Cache(tmp_path, "health").get("other") is None
    assert Cache(tmp_path, "another").get("key") is None


def test_it_is_replaced_whole_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "health")
    cache.put("key", b"one")
    cache.put("key", b"two")
    assert cache.get("key") == b"two"
    assert [path.name for path in cache.folder.iterdir()] == ["key.json"]


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file stands where the folder belongs", encoding="utf-8")
    cache = Cache(tmp_path, "health")
    cache.put("key", b"one")
    assert cache.get("key") is None


def test_readers_of_records_pass_it_by(tmp_path: Path) -> None:
    Cache(tmp_path, "health").put("key", b"no record")
    record = a_record()
    (tmp_path / "a.json").write_text(record.model_dump_json(by_alias=True), encoding="utf-8")
    store = Store(tmp_path)
    assert [stored.record.id for stored in store.records()] == [record.id]
    assert store.problems == []
