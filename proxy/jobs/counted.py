"""A job store that counts and reports the changes of jobs (CONTRACT §16)."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from weakref import WeakSet

from proxy.core.exports import verb
from proxy.core.job import Job, Phase, Status
from proxy.jobs.forwarded import ForwardedJobs
from proxy.ports import Changes, JobStore, StoreUnavailable
from proxy.ports.counts import JobCounts


@dataclass(slots=True)
class _Unfinished:
    """A job that has not ended. It has been in `phase` since this second of the loop's clock."""

    phase: Phase
    created: float
    since: float


class CountedJobs(ForwardedJobs):
    """A `JobStore` that counts the changes it makes in `counts`, and knows the unfinished jobs.

    `replica` is the id of this process where replicas share the store: then the unfinished jobs are
    those whose credentials it has. A change that the store made without confirming it is counted
    once a caller reads the job again.
    """

    def __init__(self, jobs: JobStore, counts: JobCounts, replica: str | None = None) -> None:
        super().__init__(jobs)
        self._counts = counts
        self._replica = replica
        self._unfinished: dict[str, _Unfinished] = {}
        self._unconfirmed: dict[str, tuple[Job, Job]] = {}
        self._readers: WeakSet[Changes] = WeakSet()

    def changes(self) -> Changes:
        """As `JobFeed.changes`. A change of this process is reported before the call that makes it
        returns.
        """
        reader = Changes()
        self._readers.add(reader)
        return reader

    def prompt_changes(self) -> Changes:
        """As `changes`, of all replicas; those of this process are reported at once also then."""
        return self.changes()

    def _report(self, id: str) -> None:
        for reader in self._readers:
            reader.put(id)

    def phases(self) -> Counter[str]:
        """The number of unfinished jobs by phase."""
        return Counter(job.phase.value for job in self._unfinished.values())

    def oldest(self) -> float | None:
        """The Unix second at which the oldest unfinished job was created, None without one."""
        return min((job.created for job in self._unfinished.values()), default=None)

    async def add(self, job: Job, body: bytes) -> Job:
        """As `JobStore.add`."""
        try:
            stored = await self._jobs.add(job, body)
        except StoreUnavailable:
            self._report(job.id)
            raise
        self._added(job, stored)
        return stored

    async def get(self, id: str) -> Job | None:
        """As `JobStore.get`."""
        job = await self._jobs.get(id)
        if self._unconfirmed and (change := self._unconfirmed.pop(id, None)) is not None:
            old, new = change
            if job == new:
                self._count(old, new)
        if job is None:
            self._unfinished.pop(id, None)  # its removal may not have been confirmed
        elif id in self._unfinished:
            self.see(job)
        return job

    async def replace(self, old: Job, new: Job) -> bool:
        """As `JobStore.replace`."""
        try:
            replaced = await self._jobs.replace(old, new)
        except StoreUnavailable:
            self._unconfirmed[old.id] = old, new
            self._report(old.id)
            raise
        if self._unconfirmed:
            self._unconfirmed.pop(old.id, None)
        if replaced:
            self._count(old, new)
            self._report(old.id)
        return replaced

    async def remove(self, job: Job) -> bool:
        """As `JobStore.remove`."""
        removed = await self._jobs.remove(job)
        if removed:
            self._unfinished.pop(job.id, None)
            self._unconfirmed.pop(job.id, None)
            self._report(job.id)
        return removed

    async def list(self, *, owner: str | None = None, session: str | None = None) -> list[Job]:
        """As `JobStore.list`."""
        jobs = await self._jobs.list(owner=owner, session=session)
        if owner is None and session is None:  # at start
            for job in jobs:
                self.see(job)
        return jobs

    async def close(self) -> None:
        """As `JobStore.close`."""
        await self._jobs.close()
        for reader in self._readers:
            reader.close()

    def see(self, job: Job) -> None:
        """Note the phase of the job, as it is in the store."""
        mine = self._replica is None or job.replica == self._replica
        if job.terminal or job.forgotten or not mine:
            self._unfinished.pop(job.id, None)
            return
        known = self._unfinished.get(job.id)
        if known is None or known.phase is not job.phase:
            now = asyncio.get_running_loop().time()
            self._unfinished[job.id] = _Unfinished(job.phase, job.created, now)

    def _added(self, job: Job, stored: Job) -> None:
        """Count and report a new job, or the one that it is a duplicate of."""
        if stored.id == job.id and stored.phase is Phase.GENERATING:
            self._counts.queue[verb(stored.request.title)].observe(0.0)  # it got a slot at once
        self.see(stored)
        self._report(stored.id)

    def _count(self, old: Job, new: Job) -> None:
        """Count a change that the store has made."""
        counts, known = self._counts, self._unfinished.get(new.id)
        name = verb(new.request.title)
        if new.phase is not old.phase and known is not None and known.phase is old.phase:
            seconds = asyncio.get_running_loop().time() - known.since
            match old.phase, new.phase:
                case Phase.QUEUED, Phase.GENERATING:
                    counts.queue[name].observe(seconds)
                case Phase.GENERATING, Phase.TRANSFERRING:
                    counts.generation[name].observe(seconds)
                case Phase.TRANSFERRING, Phase.FINALIZING:
                    counts.transfer[name].observe(seconds)
        if old.phase is Phase.SUSPENDED and new.phase is Phase.QUEUED:
            counts.resumed += 1
        if new.terminal and not old.terminal:
            code = "" if new.error is None else new.error.code.value
            counts.finished[new.status.value, code] += 1
            if new.status in (Status.SUCCESS, Status.WARNING) and new.size is not None:
                counts.size[name].observe(new.size)
        self.see(new)
