"""Finds the job that a request joins, or starts one (CONTRACT §14)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from weakref import WeakValueDictionary

import structlog

from proxy.core.errors import Problem
from proxy.core.events import Detached
from proxy.core.job import Job, Origin
from proxy.core.job_request import kickoff_fields
from proxy.core.rescue import Offer, offer
from proxy.jobs import events
from proxy.jobs.held_fields import HeldFields
from proxy.jobs.record import advance_for_caller
from proxy.jobs.run import Run
from proxy.jobs.runner import Runner
from proxy.jobs.sealing import Sealer
from proxy.ports import JobStore, Prepared
from proxy.ports.counts import JobCounts
from proxy.rescue.call import Call
from proxy.rescue.deliveries import RescueDeliveries
from proxy.rescue.identities import Identities
from proxy.rescue.joins import Joins
from proxy.upstream.access import Access

log = structlog.get_logger(__name__)

#: How often VB365 is asked whether the caller may see the job, and the pause in seconds between:
#: while it generates a file it may be slow to answer, and a relayed POST would start another one.
_ASKED, _PAUSE = 3, 1.0
#: How many confirmations of its identity a request waits for before its own token is confirmed: any
#: number of invented tokens may claim that identity.
_CONFIRMATIONS = 4


class NotRescued(Exception):
    """The request is relayed."""


class Joining:
    """`prepare` begins to connect to VB365. `grace` is how long a job may wait for a slot, `ttl`
    how long a finished one can be joined, both in seconds. `now` returns Unix seconds.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        access: Access,
        runner: Runner,
        sealer: Sealer,
        held_fields: HeldFields,
        deliveries: RescueDeliveries,
        counts: JobCounts,
        prepare: Callable[[], Prepared],
        grace: float,
        ttl: float,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._access = access
        self._runner = runner
        self._sealer = sealer
        self._deliveries = deliveries
        self._counts = counts
        self._prepare = prepare
        self._grace = grace
        self._ttl = ttl
        self._now = now
        self._held_fields = held_fields
        self._identities = Identities(jobs, access, spawn=runner.tasks.spawn, now=now)
        self._joins = Joins(jobs, spawn=runner.tasks.record, now=now)
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def job(self, call: Call) -> tuple[Job, bool]:
        """The job for the request, and whether the request started it. Raises `NotRescued`,
        `Problem` and `StoreUnavailable`: then the request is relayed.
        """
        fingerprint = call.export.fingerprint
        # identical requests in turn: of those at the same moment, one starts the job
        async with AsyncExitStack() as turn:
            own = self._access.owners(call.credentials)[0]
            await turn.enter_async_context(self._lock(own, fingerprint))
            found = await self._match(call, own, turn)
            if found is None and call.ranged:
                raise NotRescued
            if found is None:
                found, started = await self._start(call, turn)
                if started:
                    return found, True
        return await self._join(call, found), False

    def _lock(self, owner: str, fingerprint: str) -> asyncio.Lock:
        return self._locks.setdefault((owner, fingerprint), asyncio.Lock())

    async def _match(self, call: Call, own: str, turn: AsyncExitStack) -> Job | None:
        """The job that the request may join. VB365 is asked who the caller is if that can show one.
        Without one, no request of the identity that the token claims starts it until `turn` ends,
        as none of the owner `own` does.
        """
        fingerprint = call.export.fingerprint
        found = await self._find(self._access.owners(call.credentials), fingerprint)
        claimed = self._identities.claimed(call)
        if found is not None or claimed is None:
            return found
        # the same if the confirmation of the identity was forgotten since
        if claimed == own or await self._is_first(claimed, call, turn):
            return None
        if await self._access.learn(call.credentials):
            await turn.enter_async_context(self._lock(claimed, fingerprint))
            # nobody starts another one of the caller now, and one that has begun may be his
            if confirming := self._identities.confirming(claimed, fingerprint):
                await asyncio.wait(confirming)
        return await self._find(self._access.owners(call.credentials), fingerprint)

    async def _is_first(self, claimed: str, call: Call, turn: AsyncExitStack) -> bool:
        """Whether no job belongs to the identity, nor is about to. False if that is not known after
        a few confirmations. VB365 is not asked under its lock: invented tokens would delay those
        that VB365 has confirmed.
        """
        fingerprint = call.export.fingerprint
        for _ in range(_CONFIRMATIONS):
            if confirming := self._identities.confirming(claimed, fingerprint):
                await asyncio.wait(confirming)
            async with AsyncExitStack() as locked:
                await locked.enter_async_context(self._lock(claimed, fingerprint))
                if await self._find([claimed], fingerprint) is not None:
                    return False
                if not self._identities.confirming(claimed, fingerprint):
                    turn.push_async_exit(locked.pop_all())
                    return True
        return False

    async def _find(self, owners: Sequence[str], fingerprint: str) -> Job | None:
        for owner in owners:
            found = await self._jobs.match(owner, fingerprint)
            if found is not None and await self._deliveries.detached(found.id):
                found = await self._jobs.match(owner, fingerprint)
            if found is None:
                continue
            match offer(found, now=self._now(), ttl=self._ttl):
                case Offer.JOIN | Offer.RESUME:
                    return found
                case Offer.OVER:
                    await advance_for_caller(self._jobs, found.id, Detached(), self._now)
        return None

    async def _join(self, call: Call, job: Job) -> Job:
        """Let the request join the job, which is resumed if it is suspended."""
        await self.resume(call, job)
        self._counts.joined += 1
        since = job.created if job.started is None else job.started
        until = self._now() if job.ended is None else job.ended
        joined = job.joined + self._joins.add(job.id)
        events.joined(job, joined=joined, saved=max(0.0, until - since))
        return job

    async def resume(self, call: Call, job: Job) -> None:
        """Resume the job with the credentials of the request if it is suspended. Raises `Problem`
        unless the caller may see it.
        """
        await self._check(call, job)
        suspended = offer(job, now=self._now(), ttl=self._ttl) is Offer.RESUME
        borrowed = suspended and not await self._access.owns(call.credentials, job)
        try:
            if suspended:
                await self._runner.resume(job, call.fields, borrowed=borrowed)
        finally:
            # also one that is queued although its client leaves now, or the store did not confirm
            # it, and one that waits since before: its first client may have left, or it was resumed
            # with sealed credentials
            run = self._runner.run_of(job.id)
            if run is not None:
                self._runner.withdrawal.later(run, self._grace)

    async def _check(self, call: Call, job: Job) -> None:
        """Raise `Problem` unless the caller may see the job now (CONTRACT §9)."""
        for left in reversed(range(_ASKED)):
            try:
                await self._access.check(call.credentials, job)
            except Problem as why:
                if why.status != 503 or not left:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return

    async def _start(self, call: Call, turn: AsyncExitStack) -> tuple[Job, bool]:
        """Start a job, or return the one that another replica has just started. `turn` ends once
        the job is stored.
        """
        owners = self._access.owners(call.credentials)
        fields = kickoff_fields(call.fields)
        now = self._now()
        job = Job(
            id=str(uuid.uuid4()),
            version=1,
            owner=owners[0],
            aliases=tuple(owners[1:]),
            request=call.export,
            created=now,
            updated=now,
            sealed=self._sealer.seal(fields),
            origin=Origin.RESCUE,
            client=call.client,
            accepted=self._access.knows(fields),
        )
        run = Run(job.id, fields, rescued=True)
        run.accepted = job.accepted
        self._held_fields.take(run, job.sealed, accepted=job.accepted)
        turn.enter_context(call.memory.held())
        try:
            stored = await self._runner.tasks.undivided(
                self._submit(call, job, run, turn.pop_all())
            )
        except Problem:
            # another replica may have just started the one that took the last place
            found = await self._find(owners, call.export.fingerprint)
            if found is None:
                raise
            return found, False
        return (stored, False) if stored.id != job.id else (job, True)

    async def _submit(self, call: Call, job: Job, run: Run, turn: AsyncExitStack) -> Job:
        """Store and start the job, and what follows from that. To be completed even if the client
        leaves: until then the job must count, and it must not stay in the queue afterwards.
        """
        async with turn:
            async with self._runner.admission(
                *job.owners, accepted=job.accepted, size=len(call.body)
            ):
                run.prepared = self._prepare()  # while the job is being stored
                stored = await self._runner.submit(job, call.body, run)
            if stored.id == job.id:
                self._access.allow(call.credentials, job)
                self._runner.withdrawal.later(run, self._grace)
                self._identities.confirm_later(call, job, run.counted)
                self._counts.rescued += 1
                events.rescued(job)
            return stored
