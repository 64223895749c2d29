"""The truth: one immutable JSON file per run, in a folder by the day of its creation.

A file appears whole under its name or not at all, so any number of writers and readers share a
folder without locks. What cannot be read is reported and left where it is. This module knows the
folder and the shape of a record, and nothing of what a record means.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import ValidationError

from bench.results.record import RECORD_SCHEMA_VERSION, Record, moment

RUNS = "runs"
_PROBE_BYTES = 64 * 1024
SIMULATED = "simulated"
"""Folder inside a results folder for what ran on a pretended device: a results folder of its own,
which nothing reads that is not pointed at it."""
_APART = {"cache", "published", "recorded", "scratch", SIMULATED}
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder with --results",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder with "
    "--results",
    errno.EROFS: "it lies on a read-only file system: choose another folder with --results",
    errno.EACCES: "this user may not write there: change its permissions, or choose another "
    "folder with --results",
    errno.EPERM: "this user may not write there: change its permissions, or choose another "
    "folder with --results",
    errno.ENOTDIR: "a file stands where a folder is needed: move it, or choose another folder "
    "with --results",
    errno.EEXIST: "a file stands where a folder is needed: move it, or choose another folder "
    "with --results",
    errno.ENAMETOOLONG: "its path is too long: choose another folder with --results",
}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class StoreError(Exception):
    """A results folder or a record that cannot be used: what happened, and what to do."""


@dataclass(frozen=True)
class Problem:
    """A file that a reader left aside."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


@dataclass(frozen=True)
class Stored:
    """A record with the place it was read from."""

    record: Record
    root: Path
    path: Path
    """Relative to `root`."""

    @property
    def location(self) -> Path:
        """Return the file's path as the store's root was given."""
        return self.root / self.path


class Store:
    """The records below one results folder.

    A folder without `runs` in it is read as a plain folder of records.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[Problem] = []
        """What the latest scan left aside."""
        self.sides = 0
        """Records of comparisons that the latest call of `runs` left out."""

    def append(self, record: Record) -> Path:
        """Write a record and return its path.

        That of a simulated device goes into a results folder of its own, inside this one.

        Raises:
            StoreError: it cannot be written; nothing half written is left under its name.
        """
        content = _encode(record)
        created = moment(record.created)
        root = self.simulated().root if record.simulated else self.root
        folder = root / RUNS / created.strftime("%Y/%m/%d")
        path = folder / f"{created:%Y%m%dT%H%M%SZ}-{record.id}.json"
        with refusing(self.root):
            folder.mkdir(parents=True, exist_ok=True)
            _write_new(path, content)
        return path

    def simulated(self) -> Store:
        """Return the results folder inside this one that takes the records of simulated devices."""
        return Store(self.root / SIMULATED)

    def check_writable(self) -> None:
        """Find out before anything is measured whether records can be written.

        Raises:
            StoreError: they cannot, with the reason and the remedy.
        """
        folder = self.root / RUNS
        with refusing(self.root):
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{secrets.token_hex(8)}"
            with _removed_on_exit(probe):
                _write_durably(probe, b"\0" * _PROBE_BYTES)

    def runs(self) -> Iterator[Stored]:
        """Yield the records of `bench run`; `sides` then counts those of comparisons.

        A side of a comparison was measured by another protocol, and must not stand in for the
        newest run of its case.
        """
        self.sides = 0
        for item in self.records():
            if item.record.side is None:
                yield item
            else:
                self.sides += 1

    def records(self) -> Iterator[Stored]:
        """Yield every record that can be read, by path; `problems` then tells of the others."""
        self.problems = []
        for path in self._files():
            try:
                yield Stored(load(path), self.root, path.relative_to(self.root))
            except StoreError as error:
                self.problems.append(Problem(path, str(error).removeprefix(_place(path))))

    def find(self, reference: str) -> Stored:
        """Return the record that a path, an id or the beginning of an id names.

        Raises:
            StoreError: nothing or more than one answers, or the file is no record.
        """
        for path in (Path(reference), self.root / reference):
            if _is_file(path):
                inside = path.is_relative_to(self.root)
                root = self.root if inside else path.parent
                return Stored(load(path), root, path.relative_to(root))
        ids = {path: path.stem.partition("-")[2] for path in self._files()}
        paths = [path for path, id_ in ids.items() if id_ == reference] or [
            path for path, id_ in ids.items() if reference and id_.startswith(reference)
        ]
        if not paths:
            raise StoreError(
                f"no record {reference!r} in {printable(self.root)}: `bench table` lists them"
            )
        if len(paths) > 1:
            names = ", ".join(printable(ids[path]) for path in paths[:5])
            raise StoreError(
                f"{reference!r} begins the ids of {len(paths)} records in {printable(self.root)} "
                f"({names}{', ...' if len(paths) > 5 else ''}): give more of the id"  # noqa: PLR2004
            )
        return Stored(load(paths[0]), self.root, paths[0].relative_to(self.root))

    def _files(self) -> Iterator[Path]:
        runs = self.root / RUNS
        top = runs if os.path.isdir(runs) else self.root  # noqa: PTH112 - true or false, no error

        def report(error: OSError) -> None:
            # A results folder that nothing was written to yet need not be there.
            if not isinstance(error, FileNotFoundError) or error.filename != str(self.root):
                reason = f"the folder cannot be read: {error.strerror}"
                self.problems.append(Problem(Path(error.filename), reason))

        entered = _Entered(top)
        for folder, subfolders, names in os.walk(top, onerror=report, followlinks=True):
            subfolders[:] = [
                name
                for name in sorted(subfolders)
                if not name.startswith(".")
                and not (top == self.root and name in _APART)
                and entered.first_time(Path(folder, name))
            ]
            for path in (Path(folder, name) for name in sorted(names) if name[0] != "."):
                if path.suffix == ".json":
                    yield path
                elif path.is_symlink() and not os.path.exists(path):  # noqa: PTH110 - no error
                    self.problems.append(Problem(path, "the link cannot be followed"))


class _Entered:
    """The folders that a walk along links has been in: none is entered twice, and none above it."""

    def __init__(self, top: Path) -> None:
        resolved = top.resolve()
        self._known = {_identity(folder) for folder in (resolved, *resolved.parents)}

    def first_time(self, folder: Path) -> bool:
        identity = _identity(folder)
        new = identity not in self._known
        self._known.add(identity)
        return new


def _identity(folder: Path) -> tuple[int, int] | str:
    try:
        found = folder.stat()
    except OSError:
        # The walk itself reports a folder that it then cannot enter.
        return str(folder)
    return found.st_dev, found.st_ino


def load(path: Path) -> Record:
    """Read one record.

    Raises:
        StoreError: the file cannot be read, or is not a record that this version understands.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{_place(path)}{error.strerror}") from error
    try:
        return Record.model_validate_json(content)
    except ValidationError as error:
        raise StoreError(f"{_place(path)}{_why_no_record(content, error)}") from error


def printable(path: Path | str) -> str:
    """Return a path as text; bytes of its name that are not UTF-8 are shown as U+FFFD."""
    return os.fsencode(path).decode(errors="replace")


def new_id(now: dt.datetime) -> str:
    """Return an id that sorts by time: milliseconds and chance, nothing about user or machine."""
    return _digits(int(now.timestamp() * 1000), 10) + _digits(secrets.randbits(40), 8)


@contextlib.contextmanager
def refusing(root: Path) -> Iterator[None]:
    """Turn a write error below a results folder into a `StoreError` with its remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another folder with --results")
        detail = f" ({printable(error.filename)})" if error.filename else ""
        raise StoreError(
            f"cannot write to the results folder {printable(root)}: "
            f"{error.strerror or error}{detail}; {remedy}"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems have no fsync for folders; their renames are durable.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _encode(record: Record) -> bytes:
    content = orjson.dumps(
        record.model_dump(mode="json", by_alias=True), option=orjson.OPT_APPEND_NEWLINE
    )
    # A value that JSON cannot carry (a NaN becomes null) must fail here, not in every reader.
    Record.model_validate_json(content)
    return content


def _write_new(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}.tmp")
    with _removed_on_exit(temporary):
        _write_durably(temporary, content)
        try:
            # Unlike a rename, a link never replaces a file that is there already.
            os.link(temporary, path)
        except FileExistsError as error:
            raise StoreError(f"{path} exists already: a record is never overwritten") from error
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            if path.exists():
                raise StoreError(f"{path} exists already: a record is never overwritten") from error
            temporary.rename(path)
    sync_folder(path.parent)


def _write_durably(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _removed_on_exit(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        # A file that cannot be removed is a dot-file, which readers ignore.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _why_no_record(content: bytes, error: ValidationError) -> str:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as broken:
        return f"not JSON, or cut short: {broken}"
    if not isinstance(document, dict) or "schema" not in document or "kind" not in document:
        return "not a record of this program"
    schema, kind = document["schema"], document["kind"]
    if isinstance(schema, int) and schema > RECORD_SCHEMA_VERSION:
        return (
            f"written by a newer version (schema {schema}; this one reads up to "
            f"{RECORD_SCHEMA_VERSION}): update accelbench to read it"
        )
    if kind != "run":
        return f"holds a {kind!r}, not a run"
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"not a valid record: {place + ': ' if place else ''}{first['msg']}{more}"


def _place(path: Path) -> str:
    return f"{printable(path)}: "


def _digits(number: int, width: int) -> str:
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(width)))
