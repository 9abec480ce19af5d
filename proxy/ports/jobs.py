"""What the packages ask of a job store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.core.job import Job
from proxy.core.retention import Stage


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of jobs: `live` are the caller's jobs that have not ended, `records` all of the
    caller's and `total` those of all callers. Tombstones count as records.
    """

    live: int
    records: int
    total: int


class JobStore(Protocol):
    """Keeps job records durably. Every method may raise `StoreUnavailable`."""

    async def add(self, job: Job, body: bytes) -> Job:
        """Store a new job and its request body durably, and return the job.

        If one of its `owners` already has a job with the same `core.rescue.unique_key` (not None),
        nothing is written and that job is returned. This also holds among concurrent calls
        (CONTRACT §8, §14).
        """

    async def get(self, id: str) -> Job | None:
        """The job, which may be a tombstone, or None."""

    async def recent(self, id: str, *, fresh: bool = False) -> Job | None:
        """As `get`, but the job may be as it was up to a second ago (CONTRACT §18). For what is
        only shown. With `fresh` it is read as `get` reads it, and kept for the next call.
        """

    def in_memory(self, id: str) -> Job | None:
        """As `recent`, if the store has the job in memory. None says nothing, and a store that
        fails returns it too.
        """

    async def find(self, owner: str, idempotency_key: str) -> Job | None:
        """The job with this idempotency key that has `owner` among its `owners`, or None.
        Tombstones are ignored.
        """

    async def match(self, owner: str, fingerprint: str) -> Job | None:
        """The rescued export with this fingerprint that has `owner` among its `owners` and its
        `core.rescue.unique_key`, or None.
        """

    async def body(self, id: str) -> bytes | None:
        """The request body that was stored with the job. None if it no longer exists."""

    async def replace(self, old: Job, new: Job) -> bool:
        """Store `new` if the stored version is still `old.version`, and return whether it was. This
        is the only concurrency primitive. Raises `KeyTaken` if `new` has a key under an owner that
        `old` has not, and another job has it.

        A terminal or forgotten `new` removes the stored body; a forgotten one releases its
        idempotency key.
        """

    async def remove(self, job: Job) -> bool:
        """Remove record, body and key if the stored version is still `job.version`, and return
        whether it was.
        """

    async def list(self, *, owner: str | None = None, session: str | None = None) -> list[Job]:
        """Jobs and tombstones, newest first (`created`, then `id`). `owner` selects those that have
        it among their `owners`, `session` those of one restore session (`request.session`,
        case-insensitive).
        """

    def newest(
        self, *, owners: Collection[str] = (), session: str | None = None
    ) -> AsyncGenerator[Sequence[Job], None]:
        """The jobs of `list`, those of one of the owners or those of the session, part after part
        as they are read. Whoever needs a few reads no more than these.
        """

    async def counts(self, owners: Collection[str]) -> Counts:
        """Count jobs without reading the records. A job that has several of the `owners` counts
        once.
        """

    async def spent(self, owners: Collection[str] | None, limit: int) -> Sequence[Job]:
        """The first `limit` records that may be removed to make space, of the owners or of all, in
        the order of `core.retention.spent`.
        """

    async def due(self, stage: Stage, until: float) -> Sequence[Job]:
        """The jobs of the stage whose moment (`core.retention.stage`) is at most `until`, ordered
        by it. Reads no other records.
        """

    async def wait(self, id: str, version: int, timeout: float) -> Job | None:
        """Wait until the job's version differs from `version`, at most `timeout` seconds. Returns
        the job, or None if it no longer exists.
        """

    async def probe(self) -> None:
        """Return if a change could be stored now; otherwise raise."""

    async def close(self) -> None:
        """Flush and release all resources. The store is not used afterwards."""
