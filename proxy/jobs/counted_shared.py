"""As `jobs.counted`, for a job store that replicas share (CONTRACT §16, §18)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from proxy.core.job import Job
from proxy.jobs.counted import CountedJobs
from proxy.ports import Bounds, Changes, KeyClaim, Replica, SharedJobs, SlotLimits, SlotUse, Turn
from proxy.ports.counts import JobCounts


class CountedSharedJobs(CountedJobs):
    """A `SharedJobs` that counts the changes this replica makes. Its unfinished jobs are those
    whose credentials it has.
    """

    def __init__(self, jobs: SharedJobs, counts: JobCounts) -> None:
        super().__init__(jobs, counts, jobs.replica)
        self._shared = jobs

    @property
    def replica(self) -> str:
        """As `SharedJobs.replica`."""
        return self._shared.replica

    def changes(self) -> Changes:
        """As `JobFeed.changes`."""
        return self._shared.changes()

    def prompt_changes(self) -> Changes:
        """As `CountedJobs.prompt_changes`: the feed of the store comes over the network."""
        reader = self._shared.changes()
        self._readers.add(reader)
        return reader

    async def renew(self, *, running: int, promised: int) -> None:
        """As `SharedJobs.renew`."""
        await self._shared.renew(running=running, promised=promised)

    async def leave(self) -> None:
        """As `SharedJobs.leave`."""
        await self._shared.leave()

    async def replicas(self) -> Sequence[Replica]:
        """As `SharedJobs.replicas`."""
        return await self._shared.replicas()

    async def add_within(self, job: Job, body: bytes, bounds: Bounds) -> Job | None:
        """As `SharedJobs.add_within`."""
        stored = await self._shared.add_within(job, body, bounds)
        if stored is not None:
            self.see(stored)
            self._report(stored.id)
        return stored

    async def announce(self, claim: KeyClaim) -> None:
        """As `SharedJobs.announce`."""
        await self._shared.announce(claim)

    async def withdraw(self, claim: KeyClaim) -> None:
        """As `SharedJobs.withdraw`."""
        await self._shared.withdraw(claim)

    async def claims(self, owner: str, key: str) -> Collection[str]:
        """As `SharedJobs.claims`."""
        return await self._shared.claims(owner, key)

    async def claim(self, old: Job, new: Job, slots: SlotLimits) -> Turn:
        """As `SharedJobs.claim`."""
        turn = await self._shared.claim(old, new, slots)
        if turn is Turn.TAKEN:
            self._report(new.id)
        return turn

    async def slot_use(self, owners: Collection[str], slots: SlotLimits) -> SlotUse:
        """As `SharedJobs.slot_use`."""
        return await self._shared.slot_use(owners, slots)

    async def orphans(self) -> Sequence[Job]:
        """As `SharedJobs.orphans`."""
        return await self._shared.orphans()
