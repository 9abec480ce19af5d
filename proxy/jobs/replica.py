"""A process as one of the replicas that share a job store (CONTRACT §18)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from proxy.clock import elapsed
from proxy.jobs.lease import Lease
from proxy.jobs.runner import Runner
from proxy.jobs.takeover import TakeOver
from proxy.ports import SharedJobs, StoreUnavailable

log = structlog.get_logger(__name__)

#: Seconds until a call that failed is repeated.
_RETRY = 1.0
#: Heartbeats after which the lease is renewed late: the store was away, or this process has hung.
_LATE = 1.5
#: Seconds between two checks for free slots or suspended jobs, however many jobs change.
_SLOT_PAUSE, _SEALED_PAUSE = 0.05, 1.0


class Member:
    """Keeps the lease, follows what other replicas do, and takes over the jobs of lost ones.

    `heartbeat` is the pause between renewals of the lease, in seconds.
    """

    def __init__(
        self,
        *,
        jobs: SharedJobs,
        lease: Lease,
        runner: Runner,
        takeover: TakeOver,
        heartbeat: float,
    ) -> None:
        self._jobs = jobs
        self._lease = lease
        self._runner = runner
        self._takeover = takeover
        self._heartbeat = heartbeat
        #: When the lease was renewed last, and when it could not be, or late, or the store may have
        #: lost all leases, as `elapsed`.
        self._renewed = self._late = float("-inf")
        #: Read by all calls of `_follow`, so that no change is missed between two of them.
        self._changes = jobs.changes()
        #: Set while changes of the feed are still to be looked at.
        self._unchecked = asyncio.Event()
        self._slot_freed = asyncio.Event()
        self._suspended = asyncio.Event()

    async def join(self) -> None:
        """Begin the lease. Raises `StoreUnavailable`."""
        await self._renew()

    async def run(self) -> None:
        """Be a replica until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._follow, 0))
            tasks.create_task(self._repeat(self._renew, self._heartbeat))
            tasks.create_task(self._repeat(self._settle_orphans, self._heartbeat))
            tasks.create_task(self._repeat(self._check_runs, 0))
            tasks.create_task(self._repeat(self._fill_slots, _SLOT_PAUSE))
            tasks.create_task(self._repeat(self._resume_sealed, _SEALED_PAUSE))

    async def leave(self) -> None:
        """End the lease, so that others may take over what this replica has left."""
        try:
            await self._jobs.leave()
        except StoreUnavailable as why:
            log.warning("lease not ended", reason=str(why))

    async def _repeat(self, step: Callable[[], Awaitable[None]], pause: float) -> None:
        """Repeat the step, at slightly different moments than the other replicas. One that failed
        is repeated soon: the lease must not end while the store responds again.
        """
        while True:
            await asyncio.sleep(random.uniform(0.7, 1.0) * pause)  # noqa: S311  # no secret
            while not await self._succeeds(step):  # noqa: ASYNC110
                await asyncio.sleep(_RETRY)

    async def _succeeds(self, step: Callable[[], Awaitable[None]]) -> bool:
        try:
            await step()
        except StoreUnavailable as why:
            log.warning("job store not available", step=step.__name__, reason=str(why))
            return False
        except Exception:
            # what fails for one job must not end the lease of all
            log.exception("replica failed", step=step.__name__)
            return False
        return True

    async def _renew(self) -> None:
        runner = self._runner
        try:
            ended = await self._lease.renew(running=runner.running, promised=runner.promised)
        except StoreUnavailable:
            self._late = elapsed()
            raise
        if self._is_late():
            self._late = elapsed()
        self._renewed = elapsed()
        if ended:
            if self._lease.term > 1:
                log.warning(
                    "the lease of this replica had ended: others may have taken its jobs over",
                    replica=self._lease.replica,
                )
            self._unchecked.set()  # the next call, if this one fails, no longer knows
        others = [each for each in await self._jobs.replicas() if each.id != self._lease.replica]
        runner.count_others(sum(each.promised for each in others))

    async def _settle_orphans(self) -> None:
        """Take over the jobs of lost replicas. If the store was away, or this replica has hung, as
        all replicas of a machine do while it is paused, the leases of all of them may have ended,
        this one's too: those that live renew theirs within a heartbeat.
        """
        if not self._is_late() and elapsed() - self._late >= self._heartbeat:
            try:
                await self._takeover.settle_orphans()
            except StoreUnavailable:
                self._late = elapsed()
                raise

    def _note_gap(self) -> None:
        """Note a gap of the feed: a store that crashed and has restored a snapshot has lost the
        leases, although no renewal failed. Gaps all the time do not prevent take-overs for ever.
        """
        if elapsed() - self._late >= self._heartbeat:
            self._late = elapsed()

    def _is_late(self) -> bool:
        """Whether the lease should have been renewed long ago. It should be before the first time:
        the store may have been away until the start.
        """
        return elapsed() - self._renewed > _LATE * self._heartbeat

    async def _follow(self) -> None:
        """Follow the feed. After a missed change, all runs are checked."""
        try:
            async for job_id in self._changes:
                self._slot_freed.set()
                self._suspended.set()
                if job_id is None:
                    self._note_gap()
                    self._unchecked.set()
                else:
                    self._runner.call(job_id)
                    await self._runner.check(job_id)
        finally:
            self._unchecked.set()

    async def _check_runs(self) -> None:
        await self._after(self._unchecked, self._check_all)

    async def _check_all(self) -> None:
        gone = await self._runner.check()
        await self._takeover.settle_own(self._runner.drives)
        if gone:
            # a store that was restored may count their jobs as this replica's, and nobody drives
            # them when they have ended
            await asyncio.sleep(_RETRY)
            self._unchecked.set()

    async def _fill_slots(self) -> None:
        await self._after(self._slot_freed, self._runner.fill_slots)

    async def _resume_sealed(self) -> None:
        await self._after(self._suspended, self._takeover.resume_sealed)

    async def _after(self, event: asyncio.Event, step: Callable[[], Awaitable[None]]) -> None:
        """Take the step once the event is set. What sets it meanwhile, or a failure, leads to
        another one.
        """
        await event.wait()
        event.clear()
        try:
            await step()
        except BaseException:
            event.set()
            raise
