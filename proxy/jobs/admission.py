"""Whether one more job is admitted: quota, queue, records, free space (CONTRACT §3.5). Errors state
the numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.core.amounts import plural
from proxy.core.errors import Problem
from proxy.core.job import Job
from proxy.jobs.queue import Slots
from proxy.jobs.reservations import Reservations
from proxy.jobs.run import Run
from proxy.ports import ArtifactStore, Counts, JobStore

_RETRY_AFTER = 30
#: The number of records to remove at a time: the store syncs many changes at once.
_TOGETHER = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may run, wait and be stored (CONTRACT §15). Sizes are in bytes, times in seconds."""

    max_running: int
    max_queued: int
    max_per_caller: int
    min_free: int
    max_bytes: int | None
    max_running_per_caller: int = 0
    cancel_hold: float = 0.0
    max_records: int = 20_000
    max_records_per_caller: int = 1_000


class Admission:
    """Admits kick-offs one by one. A job that is about to be added already counts."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        slots: Slots[Run],
        space: Reservations,
        limits: Limits,
    ) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._slots = slots
        self._space = space
        self._limits = limits
        self._arriving: list[Sequence[str]] = []

    @asynccontextmanager
    async def __call__(self, owners: Sequence[str], now: float) -> AsyncIterator[None]:
        """Reserve a place for one more job of the caller while the block runs. `now` in Unix
        seconds.

        `owners` are all hashes of the caller; a job that has several of them counts once. Raises
        `Problem` 429 or 503, and `StoreUnavailable`.
        """
        await self._space.measure()
        counts = await self._make_space(owners)
        # no await between the checks and the reservation: two kick-offs never get the last place
        self._slots.expire(now)
        self._check_quota(owners, counts.live)
        self._check_queue()
        self._check_records(owners, counts)
        if (shortage := self._space.shortage()) is not None:
            raise Problem(
                "capacity-exhausted", f"Not enough space: {shortage}.", retry_after=_RETRY_AFTER
            )
        self._arriving.append(owners)
        try:
            yield
        finally:
            self._arriving.remove(owners)

    def _check_quota(self, owners: Sequence[str], live: int) -> None:
        held = self._slots.held(*owners)
        unfinished = live + held + self._arriving_of(owners)
        if unfinished < self._limits.max_per_caller:
            return
        detail = (
            f"You already have {plural(unfinished, 'unfinished export')} (exports.max_per_caller)."
        )
        if held:
            cancelled = plural(held, "cancelled one")
            detail += (
                f" That includes {cancelled} that VB365 may still work on (exports.cancel_hold)."
            )
        raise Problem("quota-exceeded", detail, retry_after=_RETRY_AFTER)

    def _check_queue(self) -> None:
        waiting = self._slots.waiting + len(self._arriving)
        if waiting >= self._limits.max_queued + self._slots.free:
            verb = "is" if waiting == 1 else "are"
            detail = f"{plural(waiting, 'export')} {verb} waiting (exports.max_queued)."
            raise Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER)

    def _check_records(self, owners: Sequence[str], counts: Counts) -> None:
        mine, all_ = self._excess(owners, counts)
        kept = "unfinished or with a file that can still be downloaded"
        if mine > 0:
            detail = (
                f"You already have {plural(self._limits.max_records_per_caller, 'export')} "
                f"on record, {kept} (exports.max_records_per_caller). "
                "Delete those that you do not need any more."
            )
            raise Problem("quota-exceeded", detail, retry_after=_RETRY_AFTER)
        if all_ > 0:
            detail = (
                f"{plural(self._limits.max_records, 'export')} are on record, {kept} "
                "(storage.max_records)."
            )
            raise Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER)

    async def _make_space(self, owners: Sequence[str]) -> Counts:
        """Remove ended records without a file, the oldest first, until one more record fits.
        Returns the counts afterwards.
        """
        while True:
            counts = await self._jobs.counts(owners)
            mine, all_ = self._excess(owners, counts)
            scope, excess = (owners, mine) if mine > 0 else (None, all_)
            found = await self._jobs.spent(scope, min(excess, _TOGETHER)) if excess > 0 else ()
            if not found:
                return counts
            await asyncio.gather(*map(self._remove, found))

    def _excess(self, owners: Sequence[str], counts: Counts) -> tuple[int, int]:
        """By how many one more record would exceed the limits, of the caller and of all callers."""
        mine = counts.records + self._arriving_of(owners) + 1 - self._limits.max_records_per_caller
        return mine, counts.total + len(self._arriving) + 1 - self._limits.max_records

    def _arriving_of(self, owners: Sequence[str]) -> int:
        return sum(not set(owners).isdisjoint(others) for others in self._arriving)

    async def _remove(self, job: Job) -> None:
        await self._artifacts.remove(job.id)  # a file that could not be removed when the job ended
        await self._jobs.remove(job)
