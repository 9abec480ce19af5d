"""A job store in front of another one, as a base of those that act on some of the calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence

from proxy.core.job import Job
from proxy.core.retention import Stage
from proxy.ports import (
    Bounds,
    Changes,
    Counts,
    JobStore,
    KeyClaim,
    Replica,
    SharedJobs,
    SlotLimits,
    SlotUse,
    Turn,
)


class ForwardedJobs:
    """A `JobStore` that forwards every call."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    async def add(self, job: Job, body: bytes) -> Job:
        """As `JobStore.add`."""
        return await self._jobs.add(job, body)

    async def get(self, id: str) -> Job | None:
        """As `JobStore.get`."""
        return await self._jobs.get(id)

    async def recent(self, id: str, *, fresh: bool = False) -> Job | None:
        """As `JobStore.recent`."""
        return await self._jobs.recent(id, fresh=fresh)

    def in_memory(self, id: str) -> Job | None:
        """As `JobStore.in_memory`."""
        return self._jobs.in_memory(id)

    async def find(self, owner: str, idempotency_key: str) -> Job | None:
        """As `JobStore.find`."""
        return await self._jobs.find(owner, idempotency_key)

    async def match(self, owner: str, fingerprint: str) -> Job | None:
        """As `JobStore.match`."""
        return await self._jobs.match(owner, fingerprint)

    async def body(self, id: str) -> bytes | None:
        """As `JobStore.body`."""
        return await self._jobs.body(id)

    async def replace(self, old: Job, new: Job) -> bool:
        """As `JobStore.replace`."""
        return await self._jobs.replace(old, new)

    async def remove(self, job: Job) -> bool:
        """As `JobStore.remove`."""
        return await self._jobs.remove(job)

    async def list(self, *, owner: str | None = None, session: str | None = None) -> list[Job]:
        """As `JobStore.list`."""
        return await self._jobs.list(owner=owner, session=session)

    def newest(
        self, *, owners: Collection[str] = (), session: str | None = None
    ) -> AsyncGenerator[Sequence[Job], None]:
        """As `JobStore.newest`."""
        return self._jobs.newest(owners=owners, session=session)

    async def counts(self, owners: Collection[str]) -> Counts:
        """As `JobStore.counts`."""
        return await self._jobs.counts(owners)

    async def spent(self, owners: Collection[str] | None, limit: int) -> Sequence[Job]:
        """As `JobStore.spent`."""
        return await self._jobs.spent(owners, limit)

    async def due(self, stage: Stage, until: float) -> Sequence[Job]:
        """As `JobStore.due`."""
        return await self._jobs.due(stage, until)

    async def wait(self, id: str, version: int, timeout: float) -> Job | None:
        """As `JobStore.wait`."""
        return await self._jobs.wait(id, version, timeout)

    async def probe(self) -> None:
        """As `JobStore.probe`."""
        await self._jobs.probe()

    async def close(self) -> None:
        """As `JobStore.close`."""
        await self._jobs.close()


class ForwardedSharedJobs(ForwardedJobs):
    """A `SharedJobs` store that forwards every call."""

    def __init__(self, jobs: SharedJobs) -> None:
        super().__init__(jobs)
        self._shared = jobs

    @property
    def replica(self) -> str:
        """As `SharedJobs.replica`."""
        return self._shared.replica

    def changes(self) -> Changes:
        """As `JobFeed.changes`."""
        return self._shared.changes()

    async def renew(self, *, running: int, promised: int) -> None:
        """As `SharedJobs.renew`."""
        await self._shared.renew(running=running, promised=promised)

    async def leave(self) -> None:
        """As `SharedJobs.leave`."""
        await self._shared.leave()

    async def replicas(self) -> Sequence[Replica]:
        """As `SharedJobs.replicas`."""
        return await self._shared.replicas()

    async def add_within(
        self, job: Job, body: bytes, bounds: Bounds, started: Job | None = None
    ) -> Job | None:
        """As `SharedJobs.add_within`."""
        return await self._shared.add_within(job, body, bounds, started)

    async def announce(self, claim: KeyClaim) -> None:
        """As `SharedJobs.announce`."""
        await self._shared.announce(claim)

    async def withdraw(self, claims: Collection[KeyClaim]) -> None:
        """As `SharedJobs.withdraw`."""
        await self._shared.withdraw(claims)

    async def claims(self, owner: str, key: str) -> Collection[str]:
        """As `SharedJobs.claims`."""
        return await self._shared.claims(owner, key)

    async def claim(self, old: Job, new: Job, slots: SlotLimits) -> Turn:
        """As `SharedJobs.claim`."""
        return await self._shared.claim(old, new, slots)

    async def slot_use(self, owners: Collection[str], slots: SlotLimits) -> SlotUse:
        """As `SharedJobs.slot_use`."""
        return await self._shared.slot_use(owners, slots)

    async def orphans(self) -> Sequence[Job]:
        """As `SharedJobs.orphans`."""
        return await self._shared.orphans()
