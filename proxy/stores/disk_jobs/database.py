"""The job records on disk: a diskcache of plain bytes, checked when it is opened. Everything here
blocks.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from diskcache import Cache, Disk, Timeout
from diskcache.core import DBNAME, DEFAULT_SETTINGS, MODE_RAW, UNKNOWN

from proxy.core.job import Job
from proxy.core.job_codec import encode
from proxy.ports import StoreUnavailable
from proxy.stores.disk_jobs.reserve import ReserveFile
from proxy.stores.disk_jobs.scan import BODY, PATIENCE, RECORD, Scan, quarantine, salvage, scan
from proxy.stores.durable import sync_directory

#: Exceptions of a failing disk or a lack of memory, which SQLite reports as MemoryError; diskcache
#: raises Timeout for a refused BEGIN.
_FAILURES = (sqlite3.Error, Timeout, OSError, MemoryError)

_PROBE = "probe"

_SETTINGS: Final = DEFAULT_SETTINGS | {
    "eviction_policy": "none",  # a job is never evicted
    "cull_limit": 0,
    "size_limit": 2**62,
    "statistics": 0,
    # diskcache's NORMAL leaves a commit in WAL mode to the page cache, where a power loss
    # discards it. FULL syncs the log at every commit: after `add` or `replace` has returned, the
    # change is durable (CONTRACT §3.6). Progress is synced too, at most once a second per job;
    # concurrent calls share one sync.
    "sqlite_synchronous": 2,
    "sqlite_journal_mode": "wal",
    # a truncated file raises SIGBUS in a mapping, but an error in read()
    "sqlite_mmap_size": 0,
}


class Unreadable(ValueError):
    """A row that this store did not write. It is not unpickled, and a file that it names is not
    read.
    """


class PlainDisk(Disk):  # type: ignore[misc]  # diskcache ships no types
    """Allows text as keys and bytes as values, stored in their row. It rejects, in both directions,
    what diskcache would pickle or unpickle (CVE-2025-69872: rows of `mode` 4 or `raw` 0) and what
    names a file.
    """

    def put(self, key: object) -> tuple[str, bool]:
        """The key as it goes into the row."""
        if type(key) is not str:
            raise Unreadable("a key is text")
        return key, True

    def get(self, key: object, raw: object) -> str:
        """The key of a row."""
        if not raw or type(key) is not str:
            raise Unreadable("a key is text")
        return key

    def store(
        self, value: object, read: bool, key: object = UNKNOWN
    ) -> tuple[int, int, None, object]:
        """The value as it goes into the row. It never goes into a separate file, which a
        transaction would not cover.
        """
        if type(value) is not bytes or read:
            raise Unreadable("a value is bytes")
        return 0, MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: object, filename: object, value: object, read: bool) -> bytes:
        """The value of a row."""
        if mode != MODE_RAW or filename is not None or type(value) is not bytes or read:
            raise Unreadable("a value is bytes in its row")
        return value

    def remove(self, file_path: str) -> None:
        """Do nothing: no row has a file, and a forged row could name any file."""


class Keep:
    """The type of `KEEP`."""


#: Leaves the stored body unchanged.
KEEP: Final = Keep()


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one job on disk. `job` None removes the record, `body` None the body."""

    id: str
    job: Job | None
    body: bytes | Keep | None


@dataclass(slots=True)
class Findings:
    """What `JobDatabase.open` found: the jobs, and a log message for each problem."""

    jobs: list[Job] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class JobDatabase:
    """The database in `directory`/jobs, used by one thread only. Failures are
    `StoreUnavailable`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "jobs"
        self._fresh = directory / "jobs.new"
        self._reserve = ReserveFile(directory / "ballast")  # the name of version 0.1.0
        self._cache: Any = None

    def open(self) -> Findings:
        """Read and check everything. A damaged database is moved aside and replaced."""
        try:
            findings = self._open()
        except _FAILURES as why:
            if self._reserve.drop():
                return self.open()
            free = shutil.disk_usage(self._directory).free
            raise StoreUnavailable(
                f"the job database in {self._path} cannot be opened: {why} ({free} bytes are free)"
            ) from why
        self._reserve.refill()
        return findings

    def _open(self) -> Findings:
        self._finish_new()
        if not self._path.exists():
            self._create([])
        findings = self._examine()
        self._cache = _connect(self._path)
        return findings

    def _finish_new(self) -> None:
        """Use a new database that a killed process left behind if it is complete, otherwise remove
        it.
        """
        if not self._fresh.exists():
            return
        if self._path.exists() or scan(self._fresh / DBNAME).trouble is not None:
            shutil.rmtree(self._fresh)
        else:
            self._fresh.rename(self._path)

    def _examine(self) -> Findings:
        file = self._path / DBNAME
        found = scan(file)
        if found.trouble is not None:
            return self._rebuild(found)
        if not found.rejected:
            return Findings(list(found.jobs.values()))
        place = self._directory / f"jobs.rejected-{_stamp()}.jsonl"
        quarantine(file, found.rejected, place)
        notes = [
            f"a row of the job database was moved to {place}: {why}" for _, why in found.rejected
        ]
        return Findings(list(found.jobs.values()), notes=notes)

    def _rebuild(self, found: Scan) -> Findings:
        """Create a new database from what can be read of the damaged one. The record copies beside
        the artifacts hold the rest.
        """
        place = self._directory / f"jobs.corrupt-{_stamp()}"
        self._create(
            (Change(job.id, job, body) for job, body in salvage(self._path / DBNAME, found)), place
        )
        note = (
            f"the job database was damaged ({found.trouble}): it was moved to {place}, and a new "
            f"one was created with the {len(found.jobs)} records that could still be read"
        )
        return Findings(list(found.jobs.values()), [note])

    def _create(self, changes: Iterable[Change], place: Path | None = None) -> None:
        """Create a new database and replace the old one when it is complete. A crash leaves one of
        the two.
        """
        self._fresh.mkdir(mode=0o700)
        with closing(_connect(self._fresh)) as fresh:
            _write(fresh, changes)
        if place is not None:
            self._path.rename(place)
        self._fresh.rename(self._path)
        sync_directory(self._directory)

    def commit(self, changes: Sequence[Change]) -> list[Exception | None]:
        """Make the changes durable, in one transaction if possible. Return the failure of each, or
        None: `StoreUnavailable`, and any other for a change that cannot be stored.
        """
        try:
            _write(self._cache, changes)
            return [None] * len(changes)
        except _FAILURES as why:
            self._recover()
            if self._reserve.drop():
                return self.commit(changes)
            # no transaction can begin if another program has locked the database: each of the
            # changes would wait as long
            if len(changes) == 1 or isinstance(why, Timeout):
                return [self._not_written(why)] * len(changes)
        except Exception as why:  # noqa: BLE001  # the other changes must not fail with it
            self._recover()
            if len(changes) == 1:
                return [why]
        return [outcome for change in changes for outcome in self.commit([change])]

    def probe(self) -> None:
        """Write a row and remove it in the same transaction, which is synced."""
        self._reserve.refill()
        try:
            with self._cache.transact():
                self._cache.set(_PROBE, b"")
                self._cache.delete(_PROBE)
        except _FAILURES as why:
            self._recover()
            raise self._not_written(why) from why

    def _not_written(self, why: Exception) -> StoreUnavailable:
        reason = "no transaction can begin" if isinstance(why, Timeout) else why
        return StoreUnavailable(f"the job database in {self._path} cannot be written: {reason}")

    def _recover(self) -> None:
        """Roll back a transaction whose COMMIT failed: diskcache leaves it open."""
        try:
            connection = self._cache._con  # noqa: SLF001
            if connection.in_transaction:
                connection.rollback()
        except _FAILURES:
            self._cache.close()  # rolls back as well; the next call connects again

    def body(self, id: str) -> bytes | None:
        """The stored request body."""
        try:
            body: bytes | None = self._cache.get(BODY + id)
            return body
        except (*_FAILURES, Unreadable) as why:
            raise StoreUnavailable(
                f"the job database in {self._path} cannot be read: {why}"
            ) from why

    def close(self) -> None:
        """Merge the log into the database and close it."""
        self._cache.close()


def _connect(path: Path) -> Any:
    return Cache(str(path), timeout=PATIENCE, disk=PlainDisk, **_SETTINGS)


def _write(cache: Any, changes: Iterable[Change]) -> None:
    with cache.transact():
        for change in changes:
            _write_row(
                cache, RECORD + change.id, None if change.job is None else encode(change.job)
            )
            if not isinstance(change.body, Keep):
                _write_row(cache, BODY + change.id, change.body)


def _write_row(cache: Any, key: str, value: bytes | None) -> None:
    if value is None:
        cache.delete(key)
    else:
        cache.set(key, value)


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
