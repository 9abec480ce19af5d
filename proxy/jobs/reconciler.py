"""Makes records and files consistent at start, before the first request (CONTRACT §9, §10)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple, TypeVar

import structlog

from proxy.core.events import Cancelled, Event, Interrupted, Released, Succeeded
from proxy.core.job import Job, Phase, ResultState, Status
from proxy.core.job_codec import decode
from proxy.core.retention import keeps_bytes
from proxy.jobs.record import attempt
from proxy.ports import ArtifactStore, JobStore, RecordDamaged, Searchable

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_R = TypeVar("_R")
_TOGETHER = 64
#: Artifacts that are looked up in one call.
_SEARCHED = 500


class Found(NamedTuple):
    """What was found at start: the number of records, and of jobs that are suspended now."""

    jobs: int
    suspended: int


class Reconciler:
    """Afterwards no file is without a record, and no record promises a missing file. `now` is the
    wall clock.

    Where replicas share the stores (`shared`), others work on their jobs meanwhile: unfinished ones
    are left to `TakeOver`.
    """

    def __init__(
        self,
        jobs: JobStore,
        artifacts: ArtifactStore,
        now: Callable[[], float],
        *,
        shared: bool = False,
    ) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._now = now
        self._shared = shared

    async def run(self) -> Found:
        """Reconcile the stores. Lost records are rebuilt from the copies beside their files. Raises
        `StoreUnavailable`.
        """
        stored = await self._artifacts.ids()
        jobs = {job.id: job for job in await self._jobs.list()}
        await _each(stored - jobs.keys(), self.adopt)
        ended = [job for job in jobs.values() if job.terminal]
        lost = await self._without_file([job for job in ended if keeps_bytes(job)])
        await _each(lost, self._release)
        useless = [job for job in ended if not keeps_bytes(job)] + lost
        await _each(stored & {job.id for job in useless}, self._artifacts.remove)
        unfinished = [job for job in jobs.values() if not job.terminal and not self._shared]
        settled = await _each(unfinished, self.settle)
        return Found(jobs=len(jobs), suspended=sum(job is not None for job in settled))

    async def adopt(self, id: str) -> None:
        """Rebuild the record of a file that has none, or remove the file. Raises
        `StoreUnavailable`.

        Such a file exists only if its record is lost: a record is added before its file and
        removed after it.
        """
        try:
            if await self._jobs.get(id) is not None:
                return  # added since the list was read
        except RecordDamaged as why:
            log.warning("file kept", job=id, reason=str(why))
            return
        job = await self._copied(id, None)
        if job is None or job.result is not ResultState.AVAILABLE:
            log.warning("file without a record removed", job=id)
            await self._artifacts.remove(id)
            return
        log.warning("record rebuilt from its file", job=id)
        known = await self._jobs.add(job, b"")
        if known.id != id:  # another job has the key by now (CONTRACT §8)
            request = replace(job.request, idempotency_key=None)
            await self._jobs.add(replace(job, request=request, detached=True), b"")

    async def _copied(self, id: str, fence: int | None) -> Job | None:
        """The job in the record copy beside its committed file, None without a readable copy.

        Without a `fence`, that of the highest one counts.
        """
        record_copy = await self._artifacts.record_copy(id, fence)
        if record_copy is None:
            return None
        try:
            job = decode(record_copy)
        except ValueError as why:
            log.warning("record copy not readable", job=id, reason=str(why))
            return None
        return job if job.id == id else None

    async def settle(self, job: Job) -> Job | None:
        """Settle an unfinished job that nobody works on: it is finished if its file is committed,
        otherwise suspended. Returns the suspended job, None if it is not or has changed meanwhile.
        Raises `StoreUnavailable`.
        """
        if job.phase is Phase.CANCELLING:
            await self._artifacts.remove(job.id)
            await self._attempt(job, Cancelled())
            return None
        if await self._finish(job):
            return None
        return job if job.phase is Phase.SUSPENDED else await self._attempt(job, Interrupted())

    async def _without_file(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of the jobs that have no artifact."""
        wanted = [(job.id, job.fence) for job in jobs]
        if isinstance(self._artifacts, Searchable):
            batches = [wanted[at : at + _SEARCHED] for at in range(0, len(wanted), _SEARCHED)]
            missing = set[str]().union(*[await self._artifacts.missing(each) for each in batches])
        else:
            found = await _each(wanted, lambda each: self._artifacts.get(*each))
            missing = {
                job for (job, _), artifact in zip(wanted, found, strict=True) if artifact is None
            }
        return [job for job in jobs if job.id in missing]

    async def _release(self, job: Job) -> None:
        if await self._attempt(job, Released()) is not None:  # not deleted since the list was read
            log.error("the file of a finished export is missing", job=job.id)

    async def _finish(self, job: Job) -> bool:
        """Finish a job whose file was committed before the process died, or before a job store was
        restored that does not know of its file.
        """
        done = await self._copied(job.id, job.fence)
        if done is None or done.size is None or done.digest is None or done.expires is None:
            return False
        warning = done.status is Status.WARNING
        succeeded = Succeeded(
            done.size, done.digest, done.expires, done.format, warning, file=done.file
        )
        current: Job | None = job
        if job.phase not in (Phase.FINALIZING, Phase.SUSPENDED):
            current = await self._attempt(job, Interrupted())
        if current is not None:
            await self._attempt(current, succeeded)
        return True

    async def _attempt(self, job: Job, event: Event) -> Job | None:
        return await attempt(self._jobs, job, event, self._now)


async def _each(items: Iterable[_T], work: Callable[[_T], Awaitable[_R]]) -> list[_R]:
    """Run `work` for up to `_TOGETHER` items at a time: the stores sync many changes at once."""
    rest = iter(items)
    results: list[_R] = []
    while batch := list(islice(rest, _TOGETHER)):
        results += await asyncio.gather(*map(work, batch))
    return results
