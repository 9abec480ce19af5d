"""As `jobs.counted`, for a job store that replicas share (CONTRACT §16, §18)."""

from __future__ import annotations

from proxy.core.job import Job
from proxy.jobs.counted import CountedJobs
from proxy.jobs.forwarded import ForwardedSharedJobs
from proxy.ports import Bounds, Changes, SharedJobs, SlotLimits, Turn
from proxy.ports.counts import JobCounts


class CountedSharedJobs(CountedJobs, ForwardedSharedJobs):
    """A `SharedJobs` that counts the changes this replica makes. Its unfinished jobs are those
    whose credentials it has.
    """

    def __init__(self, jobs: SharedJobs, counts: JobCounts) -> None:
        super().__init__(jobs, counts, jobs.replica)
        self._shared = jobs

    def changes(self) -> Changes:
        """As `JobFeed.changes`."""
        return self._shared.changes()

    def prompt_changes(self) -> Changes:
        """As `CountedJobs.prompt_changes`: the feed of the store comes over the network."""
        reader = self._shared.changes()
        self._readers.add(reader)
        return reader

    async def add_within(
        self, job: Job, body: bytes, bounds: Bounds, started: Job | None = None
    ) -> Job | None:
        """As `SharedJobs.add_within`."""
        stored = await self._shared.add_within(job, body, bounds, started)
        if stored is not None:
            self._added(job, stored)
        return stored

    async def claim(self, old: Job, new: Job, slots: SlotLimits) -> Turn:
        """As `SharedJobs.claim`."""
        turn = await self._shared.claim(old, new, slots)
        if turn is Turn.TAKEN:
            self._report(new.id)
        return turn
