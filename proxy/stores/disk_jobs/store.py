"""Job records on this machine's disk, for one process (CONTRACT §15 `storage.jobs = disk`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from proxy.core.job import Job
from proxy.core.rescue import claims, gained, rescue_key
from proxy.core.retention import Stage
from proxy.ports import Counts, KeyTaken, StoreUnavailable
from proxy.stores.disk_jobs.database import KEEP, Change, Findings, JobDatabase
from proxy.stores.disk_jobs.directory_lock import DirectoryLock
from proxy.stores.disk_jobs.group_commit import GroupCommit
from proxy.stores.disk_jobs.index import JobIndex
from proxy.stores.disk_jobs.layout import check_layout
from proxy.stores.threads import Threads, begin, undisturbed

_T = TypeVar("_T")
#: Jobs of a list that are read at a time.
_TOGETHER = 64


class DiskJobs:
    """An `OutboxJobs` store that writes records to disk before a call returns, and looks them up in
    memory.

    `notes` holds a log message about each problem that was found when the store was opened. Lost
    records can be rebuilt from the artifacts.
    """

    def __init__(
        self,
        lock: DirectoryLock,
        thread: ThreadPoolExecutor,
        database: JobDatabase,
        findings: Findings,
    ) -> None:
        self.notes = tuple(findings.notes)
        self._lock = lock
        self._thread = thread
        self._database = database
        self._index = JobIndex()
        for job in sorted(findings.jobs, key=lambda job: job.created):
            self._index.put(job)
        self._writer = GroupCommit(thread, database.commit, self._apply)
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, directory: Path) -> DiskJobs:
        """Open the jobs in `directory`, which is created if it does not exist.

        Raises `DirectoryInUse` if another process owns the directory, `StoreUnavailable` if it
        cannot be used.
        """
        thread = Threads(1, "jobs")
        try:
            opening = begin(thread, partial(_open, directory))
            opened = await undisturbed(
                opening, unwanted=lambda late: begin(thread, partial(_close_all, *late[:2]))
            )
        except BaseException:
            thread.shutdown(wait=False)
            raise
        lock, database, findings = opened
        return cls(lock, thread, database, findings)

    async def add(self, job: Job, body: bytes) -> Job:
        """As `JobStore.add`. A job whose id is already stored is not written again."""
        return await self._submit(_touched(job), partial(self._decide_add, job, body))

    def _decide_add(self, job: Job, body: bytes) -> tuple[Job, Change | None]:
        known = self._index.get(job.id)
        for owner, key in claims(job):
            known = known or self._index.find(owner, key)
        return (known, None) if known is not None else (job, Change(job.id, job, body))

    async def get(self, id: str) -> Job | None:
        """As `JobStore.get`."""
        self._check_open()
        return self._index.get(id)

    async def recent(self, id: str, *, fresh: bool = False) -> Job | None:
        """As `JobStore.recent`: the job as it is."""
        return await self.get(id)

    def in_memory(self, id: str) -> Job | None:
        """As `JobStore.in_memory`."""
        return None if self._closing is not None else self._index.get(id)

    async def find(self, owner: str, idempotency_key: str) -> Job | None:
        """As `JobStore.find`."""
        self._check_open()
        return self._index.find(owner, idempotency_key)

    async def match(self, owner: str, fingerprint: str) -> Job | None:
        """As `JobStore.match`."""
        return await self.find(owner, rescue_key(fingerprint))

    async def body(self, id: str) -> bytes | None:
        """As `JobStore.body`."""
        self._check_open()
        return await begin(self._thread, partial(self._database.body, id))

    async def replace(self, old: Job, new: Job) -> bool:
        """As `JobStore.replace`."""
        if old.id != new.id:
            raise ValueError("a job is replaced by its own next version")
        body = None if new.terminal or new.forgotten else KEEP
        change = Change(new.id, new, body)
        decide = partial(self._decide_replace, old, new, change)
        outcome = await self._submit(_touched(old, new), decide)
        if outcome is None:
            raise KeyTaken
        return outcome

    def _decide_replace(
        self, old: Job, new: Job, change: Change
    ) -> tuple[bool | None, Change | None]:
        decision = self._decide(old, change)
        if decision[0] and any(self._index.find(*claim) is not None for claim in gained(old, new)):
            return None, None
        return decision

    async def remove(self, job: Job) -> bool:
        """As `JobStore.remove`."""
        return await self._submit(
            _touched(job), partial(self._decide, job, Change(job.id, None, None))
        )

    def _decide(self, old: Job, change: Change) -> tuple[bool, Change | None]:
        stored = self._index.get(old.id)
        if stored is None or stored.version != old.version:
            return False, None
        return True, change

    async def list(self, *, owner: str | None = None, session: str | None = None) -> list[Job]:
        """As `JobStore.list`."""
        self._check_open()
        return self._index.list(owner, session)

    async def newest(
        self, *, owners: Collection[str] = (), session: str | None = None
    ) -> AsyncGenerator[Sequence[Job], None]:
        """As `JobStore.newest`."""
        before = None
        while True:
            self._check_open()
            part = self._index.newest(owners, session, before, _TOGETHER)
            if not part:
                return
            yield part
            before = part[-1].sort_key

    async def counts(self, owners: Collection[str]) -> Counts:
        """As `JobStore.counts`."""
        self._check_open()
        return self._index.counts(owners)

    async def spent(self, owners: Collection[str] | None, limit: int) -> Sequence[Job]:
        """As `JobStore.spent`."""
        self._check_open()
        return self._index.spent(owners, limit)

    async def due(self, stage: Stage, until: float) -> Sequence[Job]:
        """As `JobStore.due`."""
        self._check_open()
        return self._index.due(stage, until)

    async def pending(self, endpoint: str, until: float, limit: int) -> Sequence[Job]:
        """As `Outbox.pending`."""
        self._check_open()
        return self._index.pending(endpoint, until, limit)

    async def backlog(self, endpoint: str) -> int:
        """As `Outbox.backlog`."""
        self._check_open()
        return self._index.backlog(endpoint)

    async def wait(self, id: str, version: int, timeout: float) -> Job | None:
        """As `JobStore.wait`; also returns when the store is closed."""
        self._check_open()
        return await self._index.wait(id, version, timeout)

    async def probe(self) -> None:
        """As `JobStore.probe`: a row is written and removed."""
        self._check_open()
        await undisturbed(begin(self._thread, self._database.probe))

    async def close(self) -> None:
        """As `JobStore.close`: earlier calls are completed first. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._writer.drained()
        self._index.release()
        await begin(self._thread, partial(_close_all, self._lock, self._database))
        self._thread.shutdown(wait=False)

    async def _submit(
        self, touches: frozenset[Hashable], decide: Callable[[], tuple[_T, Change | None]]
    ) -> _T:
        self._check_open()
        return await self._writer.submit(touches, decide)

    def _apply(self, change: Change) -> None:
        if change.job is None:
            self._index.drop(change.id)
        else:
            self._index.put(change.job)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreUnavailable("the job store is closed")


def _open(directory: Path) -> tuple[DirectoryLock, JobDatabase, Findings]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(directory)
    except OSError as why:
        raise StoreUnavailable(f"the data directory {directory} cannot be used: {why}") from why
    database = JobDatabase(directory)
    try:
        _check(directory)
        return lock, database, database.open()
    except BaseException:
        lock.release()
        raise


def _check(directory: Path) -> None:
    try:
        check_layout(directory)
    except OSError as why:
        raise StoreUnavailable(f"the data directory {directory} cannot be used: {why}") from why


def _close_all(lock: DirectoryLock, database: JobDatabase) -> None:
    try:
        database.close()
    finally:
        lock.release()


def _touched(*jobs: Job) -> frozenset[Hashable]:
    """The keys that an operation on the jobs touches: their ids, and the idempotency keys that they
    take or release (CONTRACT §8).
    """
    return frozenset({job.id for job in jobs} | {claim for job in jobs for claim in claims(job)})
