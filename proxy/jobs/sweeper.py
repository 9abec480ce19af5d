"""Expiry: of results, records, suspended jobs and tombstones (CONTRACT §7, §9)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

import structlog

from proxy.core.events import Expired, Failed
from proxy.core.job import ErrorCode, Job, JobError, Phase, ResultState
from proxy.core.retention import Retention, Stage, file_expired, keeps_bytes
from proxy.jobs.record import attempt
from proxy.ports import ArtifactStore, JobStore, StoreUnavailable

log = structlog.get_logger(__name__)

_T = TypeVar("_T", str, Job)

#: The number of jobs to examine at a time: the store syncs many changes at once.
_TOGETHER = 64
#: Seconds that a sweep waits for the list of all files.
_LISTING = 60.0
#: A quarter of the default of `exports.max_queued`.
_MAX_REJECTED = 250
_INTERRUPTED = JobError(
    code=ErrorCode.INTERRUPTED,
    message="The export was interrupted and nobody asked for it in time. Start it again.",
    retryable=True,
)


class Sweeper:
    """Removes what has expired. Readers do not depend on it: they compare with the clock themselves
    (`core.retention.as_of`).

    `suspend_ttl` is in seconds, `now` is the wall clock. Of the suspended jobs of callers that
    VB365 never accepted, the newest `max_rejected` are kept. `wake` is called for a job that a
    caller ended while its runner did not notice, `adopt` for a file without a record.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        retention: Retention,
        suspend_ttl: float,
        max_rejected: int = _MAX_REJECTED,
        wake: Callable[[str], Awaitable[None]],
        adopt: Callable[[str], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._retention = retention
        self._suspend_ttl = suspend_ttl
        self._max_rejected = max_rejected
        self._wake = wake
        self._adopt = adopt
        self._now = now

    async def run(self) -> None:
        """Sweep until cancelled, several times within the shortest time to live."""
        shortest = min(self._retention.result, self._retention.record, self._suspend_ttl)
        interval = max(0.2, min(15.0, shortest / 4))
        while True:
            await asyncio.sleep(interval)
            try:
                await self.sweep()
            except StoreUnavailable as why:
                log.warning("sweep not finished", reason=str(why))
            except Exception:
                # the sweeper must outlive a bad record; the next sweep reports it again
                log.exception("sweep failed")

    async def sweep(self) -> None:
        """Examine every job that is due, and every file. Raises `StoreUnavailable` if the job store
        is not available.
        """
        # before the jobs: a file that has no job afterwards has lost it
        stored = await self._stored()
        for stage, until in self._retention.due(self._now(), suspend_ttl=self._suspend_ttl).items():
            await self._each(await self._jobs.due(stage, until), self._sweep_job)
        await self._each(await self._excess(), self._interrupt)
        await self._each(stored, self._sweep_file)

    async def _stored(self) -> set[str]:
        """The ids of the jobs that have files. None while the store cannot list them: the jobs are
        due all the same.
        """
        try:
            async with asyncio.timeout(_LISTING):
                return await self._artifacts.ids()
        except TimeoutError:
            log.warning("files not swept", reason=f"they are not listed within {_LISTING:g} s")
        except StoreUnavailable as why:
            log.warning("files not swept", reason=str(why))
        return set()

    async def _each(self, found: Iterable[_T], examine: Callable[[_T], Awaitable[None]]) -> None:
        rest = iter(found)
        while batch := list(islice(rest, _TOGETHER)):
            await asyncio.gather(*(self._try(examine, each) for each in batch))

    async def _try(self, examine: Callable[[_T], Awaitable[None]], each: _T) -> None:
        try:
            await examine(each)
        except StoreUnavailable as why:
            log.warning("not swept", job=_id(each), reason=str(why))
        except Exception:
            # one bad record must not end the sweep of all others; the next sweep reports it again
            log.exception("not swept", job=_id(each))

    async def _excess(self) -> Sequence[Job]:
        """The suspended jobs of callers that VB365 never accepted, above their number, oldest
        first.
        """
        rejected = await self._jobs.due(Stage.REJECTED, self._now())
        return rejected[: max(0, len(rejected) - self._max_rejected)]

    async def _sweep_file(self, id: str) -> None:
        job = await self._jobs.get(id)
        if job is None:
            await self._adopt(id)  # a job store that replicas share may have lost its data
        elif job.forgotten:
            await self._wake(id)
        elif not keeps_bytes(job):
            await self._artifacts.remove(id)  # a file that could not be removed when the job ended

    async def _sweep_job(self, job: Job) -> None:
        now = self._now()
        if job.result is ResultState.AVAILABLE and file_expired(job, now):
            # also if the record is over: its messages are delivered before (CONTRACT §17);
            # exactly this version: an operator may just have extended the time of the file
            if await attempt(self._jobs, job, Expired(), self._now) is not None:
                await self._artifacts.remove(job.id)
        elif self._retention.record_over(job, now):
            await self._artifacts.remove(job.id)
            if self._retention.removable(job, now):
                await self._jobs.remove(job)
        elif self._retention.suspension_over(job, now, suspend_ttl=self._suspend_ttl):
            await self._interrupt(job)
        elif job.phase is Phase.CANCELLING:
            await self._wake(job.id)

    async def _interrupt(self, job: Job) -> None:
        if await attempt(self._jobs, job, Failed(_INTERRUPTED), self._now) is not None:
            await self._artifacts.remove(job.id)


def _id(each: str | Job) -> str:
    return each if isinstance(each, str) else each.id
