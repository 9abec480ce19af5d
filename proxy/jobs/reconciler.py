"""Makes records and files consistent at start, before the first request (CONTRACT §9, §10)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import TypeVar

import structlog

from proxy.core.job import (
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
from proxy.core.retention import keeps_bytes
from proxy.jobs.record import Record
from proxy.ports import ArtifactStore, JobStore

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_TOGETHER = 64


class Reconciler:
    """Afterwards no file is without a record, and no record promises a missing file. `now` is the
    wall clock.
    """

    def __init__(self, jobs: JobStore, artifacts: ArtifactStore, now: Callable[[], float]) -> None:
        self._jobs = jobs
        self._artifacts = artifacts
        self._now = now

    async def run(self) -> None:
        """Reconcile the stores. Lost records are rebuilt from the copies beside their files. Raises
        `StoreUnavailable`.
        """
        stored = await self._artifacts.ids()
        jobs = {job.id: job for job in await self._jobs.list()}
        await _each(stored - jobs.keys(), self._adopt)
        await _each(jobs.values(), lambda job: self._settle(job, job.id in stored))

    async def _adopt(self, id: str) -> None:
        """Rebuild the record of a file that has none, or remove the file.

        Such a file exists only if its record is lost: a record is added before its file and
        removed after it.
        """
        job = await self._copied(id)
        if job is None or job.result is not ResultState.AVAILABLE:
            log.warning("file without a record removed", job=id)
            await self._artifacts.remove(id)
            return
        log.warning("record rebuilt from its file", job=id)
        known = await self._jobs.add(job, b"")
        if known.id != id:  # another job has the key by now (CONTRACT §8)
            await self._jobs.add(
                replace(job, request=replace(job.request, idempotency_key=None)), b""
            )

    async def _copied(self, id: str) -> Job | None:
        """The job in the record copy beside its committed file, None without a readable copy."""
        record_copy = await self._artifacts.record_copy(id)
        if record_copy is None:
            return None
        try:
            job = decode(record_copy)
        except ValueError as why:
            log.warning("record copy not readable", job=id, reason=str(why))
            return None
        return job if job.id == id else None

    async def _settle(self, job: Job, stored: bool) -> None:
        if job.terminal or job.forgotten:
            await self._settle_ended(job, stored)
        elif job.phase is Phase.CANCELLING:
            await self._artifacts.remove(job.id)
            await self._advance(job, Cancelled())
        elif not (stored and await self._finish(job)) and job.phase is not Phase.SUSPENDED:
            await self._advance(job, Interrupted())

    async def _settle_ended(self, job: Job, stored: bool) -> None:
        keep = keeps_bytes(job)
        if keep and not (stored and await self._artifacts.get(job.id)):
            log.error("the file of a finished export is missing", job=job.id)
            await self._advance(job, Released())
            keep = False
        if stored and not keep:
            await self._artifacts.remove(job.id)

    async def _finish(self, job: Job) -> bool:
        """Finish a job whose file was committed before the process died."""
        done = await self._copied(job.id)
        if done is None or done.size is None or done.digest is None or done.expires is None:
            return False
        succeeded = Succeeded(
            done.size, done.digest, done.expires, done.format, done.status is Status.WARNING
        )
        record = Record(self._jobs, job, self._now)
        if job.phase not in (Phase.FINALIZING, Phase.SUSPENDED):
            await record.advance(Interrupted())
        await record.advance(succeeded)
        log.info("finished export taken over", job=job.id)
        return True

    async def _advance(self, job: Job, event: Event) -> None:
        await Record(self._jobs, job, self._now).advance(event)


async def _each(items: Iterable[_T], work: Callable[[_T], Awaitable[None]]) -> None:
    """Run `work` for up to `_TOGETHER` items at a time: the stores sync many changes at once."""
    rest = iter(items)
    while batch := list(islice(rest, _TOGETHER)):
        await asyncio.gather(*map(work, batch))
