"""What a start finds: records and files are brought to agree, before the first request (CONTRACT §9, §10)."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from proxy.core.jobs import (
    Cancelled,
    Event,
    Interrupted,
    Job,
    Phase,
    Released,
    ResultState,
    Status,
    Succeeded,
    decode,
)
from proxy.ports import ArtifactStore, JobStore
from proxy.runs import Record

log = structlog.get_logger(__name__)


class Reconciler:
    """Leaves no file without a record and no record that promises a missing file. `now` is the wall clock."""

    def __init__(self, jobs: JobStore, artifacts: ArtifactStore, now: Callable[[], float]) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._now = now

    async def run(self, *, rebuild: bool) -> None:
        """Reconcile the stores. `rebuild`: the job database was lost, so committed files bring their records back."""
        stored = await self._artifacts.ids()
        jobs = {job.id: job for job in await self._jobs.list()}
        for orphan in stored - jobs.keys():
            if not (rebuild and await self._rebuild(orphan)):
                log.warning("file without a record removed", job=orphan)
                await self._artifacts.remove(orphan)
        for job in jobs.values():
            await self._settle(job, job.id in stored)

    async def _rebuild(self, id: str) -> bool:
        memo = await self._artifacts.memo(id)
        if memo is None:
            return False
        try:
            job = decode(memo)
        except ValueError as why:
            log.warning("the file's memo does not tell its record", job=id, reason=str(why))
            return False
        await self._jobs.add(job, b"")
        log.warning("record rebuilt from its file", job=id)
        return True

    async def _settle(self, job: Job, stored: bool) -> None:
        if job.terminal or job.forgotten:
            await self._settle_ended(job, stored)
        elif job.phase is Phase.CANCELLING:
            await self._artifacts.remove(job.id)
            await self._advance(job, Cancelled())
        elif not (stored and await self._finish(job)) and job.phase is not Phase.SUSPENDED:
            await self._advance(job, Interrupted())

    async def _settle_ended(self, job: Job, stored: bool) -> None:
        promised = job.result is ResultState.AVAILABLE
        if stored and not promised:
            await self._artifacts.remove(job.id)
        elif promised and not (stored and await self._artifacts.get(job.id)):
            log.error("the file of a finished export is missing", job=job.id)
            await self._advance(job, Released())

    async def _finish(self, job: Job) -> bool:
        """The file was committed and the process died before its record said so."""
        memo = await self._artifacts.memo(job.id)
        if memo is None or await self._artifacts.get(job.id) is None:
            return False
        done = decode(memo)
        if done.size is None or done.digest is None or done.expires is None:
            return False
        succeeded = Succeeded(done.size, done.digest, done.expires, done.format, done.status is Status.WARNING)
        record = Record(self._jobs, job, self._now)
        if job.phase not in (Phase.FINALIZING, Phase.SUSPENDED):
            await record.advance(Interrupted())
        await record.advance(succeeded)
        log.info("finished export taken over", job=job.id)
        return True

    async def _advance(self, job: Job, event: Event) -> None:
        await Record(self._jobs, job, self._now).advance(event)
