"""What time does to jobs: results and records expire, suspended jobs give up, tombstones go (CONTRACT §7, §9)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from proxy.core.jobs import ErrorCode, Expired, Failed, Job, JobError, Phase, ResultState, file_expired
from proxy.core.monitor import Retention
from proxy.ports import ArtifactStore, JobStore, StoreUnavailable
from proxy.runs import Lost, Record

log = structlog.get_logger(__name__)

#: Jobs looked at before other work gets a turn.
_STRIDE = 200
_INTERRUPTED = JobError(
    code=ErrorCode.INTERRUPTED,
    message="The export was interrupted and nobody asked for it in time. Start it again.",
    retryable=True,
)


class Sweeper:
    """Ends what is over. Readers never depend on it: they judge by the clock themselves (`monitor.seen`).

    `suspend_ttl` in seconds; `now` is the wall clock; `wake` is the runner's, for what a caller ended and nobody heard.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        retention: Retention,
        suspend_ttl: float,
        wake: Callable[[str], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._retention = retention
        self._suspend_ttl = suspend_ttl
        self._wake = wake
        self._now = now

    async def run(self) -> None:
        """Sweep until cancelled, several times within the shortest of the times."""
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
        """Look at every job once, and at every file. Raises `StoreUnavailable`."""
        stored = await self._artifacts.ids()  # first: a file without a job in the later list has none any more
        jobs = await self._jobs.list()
        for place, job in enumerate(jobs):
            if place % _STRIDE == _STRIDE - 1:
                await asyncio.sleep(0)
            try:
                await self._look(job, job.id in stored)
            except Lost:
                continue  # changed by somebody else meanwhile: the next sweep sees it as it then is
            except StoreUnavailable as why:
                log.warning("job not swept", job=job.id, reason=str(why))
        for orphan in stored - {job.id for job in jobs}:
            # a finished one stays: the next start rebuilds its record
            if await self._artifacts.get(orphan) is None:
                log.warning("partial file without a record removed", job=orphan)
                await self._artifacts.remove(orphan)

    async def _look(self, job: Job, stored: bool) -> None:
        now = self._now()
        ends = self._retention.record_ends(job)
        if ends is not None and now >= ends:
            await self._artifacts.remove(job.id)
            await self._jobs.remove(job)
        elif job.result is ResultState.AVAILABLE and file_expired(job, now):
            await Record(self._jobs, job, self._now).advance(Expired())
            await self._artifacts.remove(job.id)
        elif job.phase is Phase.SUSPENDED and now - (job.suspended or now) >= self._suspend_ttl:
            await Record(self._jobs, job, self._now).advance(Failed(_INTERRUPTED))
            await self._artifacts.remove(job.id)
        elif job.phase is Phase.CANCELLING or (job.forgotten and stored):
            await self._wake(job.id)
        elif stored and job.terminal and job.result is not ResultState.AVAILABLE:
            await self._artifacts.remove(job.id)  # what could not be removed when the job ended
