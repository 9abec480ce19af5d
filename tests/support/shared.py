"""A job store in memory that several replicas share: `SharedStore.handle()` is one replica's.

The store has a clock of its own for leases, `SharedStore.clock`, which tests move.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Sequence
from uuid import uuid4
from weakref import WeakSet

from proxy.core.job import Job, Phase
from proxy.jobs.queue import Slots
from proxy.ports import (
    Bounds,
    Changes,
    KeyClaim,
    KeyClaimed,
    Replica,
    SlotLimits,
    SlotUse,
    StoreUnavailable,
    Turn,
)
from tests.support.fakes import MemoryJobs

LEASE = 30.0


class SharedStore:
    """What the handles share."""

    def __init__(self, *, now: float = 1_000_000.0) -> None:
        self.clock = now
        self.jobs: dict[str, Job] = {}
        self.bodies: dict[str, bytes] = {}
        self.changed = asyncio.Condition()
        self.leases: dict[str, Replica] = {}
        self.lengths: dict[str, float] = {}
        self.feeds: WeakSet[Changes] = WeakSet()
        #: The starts of jobs: their owners, and whether VB365 accepted them.
        self.started: list[tuple[tuple[str, ...], bool]] = []
        #: Moments at which jobs were abandoned, with their ids and owners.
        self.holds: list[tuple[float, str, tuple[str, ...]]] = []
        self.queued: list[str] = []
        #: Replicas by owner, idempotency key and id of a kick-off.
        self.claims: dict[tuple[str, str, str], str] = {}

    def handle(self, lease: float = LEASE) -> MemorySharedJobs:
        return MemorySharedJobs(self, lease)

    def alive(self, replica: str | None) -> bool:
        lease = self.leases.get(replica or "")
        return lease is not None and self.clock < lease.seen + self.lengths[lease.id]

    def waits(self, job: Job) -> bool:
        return job.phase is Phase.QUEUED and job.holder is None

    def runs(self, job: Job) -> bool:
        return job.holder is not None and not job.terminal

    def slots(self, limits: SlotLimits) -> Slots[str]:
        """The slots and the queue, as the records have them."""
        slots: Slots[str] = Slots(total=limits.total, per_caller=limits.per_caller)
        for job in self.jobs.values():
            if self.runs(job):
                slots.hold(math.inf, *job.owners)
        for since, job_id, owners in self.holds:
            held = self.jobs.get(job_id)
            if since + limits.hold > self.clock and not (held and self.runs(held)):
                slots.hold(since + limits.hold, *owners)
        for owners, accepted in self.started:
            slots.started(*owners, accepted=accepted)
        for job in filter(None, map(self.jobs.get, self.queued)):
            if self.waits(job) and self.alive(job.replica):
                slots.wait(job.id, *job.owners, accepted=job.accepted)
        return slots

    def use(self, owners: Collection[str], limits: SlotLimits) -> SlotUse:
        slots = self.slots(limits)
        running = [job for job in self.jobs.values() if self.runs(job)]
        mine = sum(not set(owners).isdisjoint(job.owners) for job in running) if owners else 0
        return SlotUse(
            running=len(running),
            waiting=sum(map(self.waits, self.jobs.values())),
            held=slots.held() - len(running),
            held_by_caller=(slots.held(*owners) if owners else 0) - mine,
        )

    def put(self, job: Job) -> None:
        self.jobs[job.id] = job
        if job.phase is Phase.QUEUED and job.holder is None and job.id not in self.queued:
            self.queued.append(job.id)
        elif job.phase is not Phase.QUEUED and job.id in self.queued:
            self.queued.remove(job.id)
        self.tell(job.id)

    def tell(self, id: str | None) -> None:
        for feed in self.feeds:
            feed.put(id)


class MemorySharedJobs(MemoryJobs):
    """A `SharedJobs` in memory. `faults` and `gates` are this handle's own."""

    def __init__(self, store: SharedStore, lease: float) -> None:
        super().__init__()
        self.store = store
        self.jobs, self.bodies, self.changed = store.jobs, store.bodies, store.changed
        self.replica = str(uuid4())
        self.feeds: WeakSet[Changes] = WeakSet()
        store.lengths[self.replica] = lease

    async def renew(self, *, running: int, promised: int) -> None:
        await self.enter("renew")
        self.store.leases[self.replica] = Replica(
            id=self.replica, seen=self.store.clock, running=running, promised=promised
        )

    async def leave(self) -> None:
        await self.enter("leave")
        self.store.leases.pop(self.replica, None)
        for job in self.jobs.values():
            if not job.terminal and self.replica == (job.holder or job.replica):
                self.store.tell(job.id)

    async def replicas(self) -> Sequence[Replica]:
        await self.enter("replicas")
        return [each for each in self.store.leases.values() if self.store.alive(each.id)]

    async def replace(self, old: Job, new: Job) -> bool:
        await self.enter("replace")
        ends = new.phase is Phase.CANCELLING or new.forgotten
        mine = self.replica in {old.holder, new.holder} and self._is_stored(old)
        if mine and not ends and not self.store.alive(self.replica):
            raise StoreUnavailable("the lease of this replica has ended")
        replaced = await super().replace(old, new)
        if replaced and new.abandoned is not None and old.abandoned is None:
            self.store.holds.append((self.store.clock, new.id, new.owners))
        return replaced

    async def add_within(
        self, job: Job, body: bytes, bounds: Bounds, started: Job | None = None
    ) -> Job | None:
        await self.enter("add_within")
        owners = set(job.owners)
        for owner in job.owners:
            if (found := self._find(owner, job.request.idempotency_key)) is not None:
                return found
        self._check_claims(job)
        mine = [each for each in self.jobs.values() if owners & set(each.owners)]
        use = self.store.use(job.owners, bounds.slots)
        live = sum(not each.terminal for each in mine) + use.held_by_caller
        free = max(0, bounds.slots.total - use.running - use.held)
        if (
            live >= bounds.per_caller
            or use.waiting >= bounds.queued + free
            or len(mine) >= bounds.records_per_caller
            or len(self.jobs) >= bounds.records
        ):
            return None
        self.bodies[job.id] = body
        may_start = self.store.alive(self.replica) and not use.waiting
        slots = self.store.slots(bounds.slots)
        if started is not None and may_start and slots.take(job.id, *job.owners):
            self.store.started.append((job.owners, job.accepted))
            job = started
        await self._put(job)
        return job

    async def add(self, job: Job, body: bytes) -> Job:
        self._check_claims(job)
        return await super().add(job, body)

    def _check_claims(self, job: Job) -> None:
        key = job.request.idempotency_key or ""
        if any(set(self._claims(owner, key)) - {job.id} for owner in job.owners):
            raise KeyClaimed

    async def announce(self, claim: KeyClaim) -> None:
        await self.enter("announce")
        self.store.claims[claim.owner, claim.key, claim.id] = self.replica

    async def withdraw(self, claims: Collection[KeyClaim]) -> None:
        await self.enter("withdraw")
        for each in claims:
            self.store.claims.pop((each.owner, each.key, each.id), None)

    async def claims(self, owner: str, key: str) -> Collection[str]:
        await self.enter("claims")
        return self._claims(owner, key)

    def _claims(self, owner: str, key: str) -> list[str]:
        return [
            each
            for (of, under, each), replica in self.store.claims.items()
            if (of, under) == (owner, key) and self.store.alive(replica)
        ]

    async def claim(self, old: Job, new: Job, slots: SlotLimits) -> Turn:
        await self.enter("claim")
        if new.holder != self.replica or not (self.store.waits(old) or old.holder):
            raise ValueError("a replica claims a job that waits, for itself")
        if not self._is_stored(old):
            return Turn.CHANGED
        if not self.store.alive(self.replica):
            raise StoreUnavailable("the lease of this replica has ended")
        if old.holder is None:
            if (turn := self.store.slots(slots).next()) != old.id:
                if turn is not None:
                    self.store.tell(turn)
                return Turn.NOT_YET
            self.store.started.append((old.owners, old.accepted))
        await self._put(new)
        return Turn.TAKEN

    async def slot_use(self, owners: Collection[str], slots: SlotLimits) -> SlotUse:
        await self.enter("slot_use")
        return self.store.use(owners, slots)

    async def orphans(self) -> Sequence[Job]:
        await self.enter("orphans")
        return [
            job
            for job in self.jobs.values()
            if not job.terminal
            and job.phase is not Phase.SUSPENDED
            and not self.store.alive(job.holder or job.replica)
        ]

    async def remove(self, job: Job) -> bool:
        removed = await super().remove(job)
        self.store.tell(job.id)
        return removed

    def changes(self) -> Changes:
        feed = Changes()
        self.store.feeds.add(feed)
        self.feeds.add(feed)
        if self.closed:
            feed.close()
        return feed

    async def close(self) -> None:
        await super().close()
        for feed in self.feeds:
            feed.close()

    async def _put(self, job: Job) -> None:
        self.store.put(job)
        await self._wake()
