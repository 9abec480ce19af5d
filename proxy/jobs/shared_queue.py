"""Where the runs of a replica wait for a slot: turns are taken over all replicas (CONTRACT §18)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeGuard

import structlog

from proxy.core.events import Assigned
from proxy.core.job import Job, Phase
from proxy.core.transitions import advance
from proxy.jobs.run import Run
from proxy.ports import SharedJobs, SlotLimits, SlotUse, StoreUnavailable, Turn

log = structlog.get_logger(__name__)


class SharedQueue:
    """The queue of one replica. The store decides whose turn it is; this asks for each run.

    It asks for the first run of each caller. That may be another one than the store's: concurrent
    kick-offs are stored in another order than their tasks go on, and a caller may have jobs under
    different hashes. The store then reports the job whose turn it is, and `call` names its run.

    `start` is called for each run that has got a slot, `wake` for the id of one whose job has ended
    or moved to another replica; `now` is the wall clock.
    """

    def __init__(
        self,
        jobs: SharedJobs,
        limits: SlotLimits,
        *,
        start: Callable[[Run], None],
        wake: Callable[[str], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._limits = limits
        self._start = start
        self._wake = wake
        self._now = now
        #: In the order of arrival.
        self._waiting: dict[Run, Job] = {}
        self._running: set[Run] = set()
        #: Runs that the store has reported since the last `fill`.
        self._called: dict[Run, None] = {}
        #: Runs that may have a slot, because the store did not confirm their claim.
        self._unconfirmed: dict[Run, None] = {}
        #: One claim at a time: each one depends on the state after the last.
        self._claiming = asyncio.Lock()
        #: A `fill` waits for that.
        self._filling = False
        self._closed = False

    @property
    def running(self) -> int:
        """As `Queue.running`."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """As `Queue.waiting`."""
        return len(self._waiting)

    async def use(self, owners: Sequence[str]) -> SlotUse:
        """As `Queue.use`."""
        return await self._jobs.slot_use(owners, self._limits)

    def restore(self, jobs: Iterable[Job]) -> None:
        """Do nothing: the store knows."""

    def offer(self, run: Run, job: Job) -> bool:
        """As `Queue.offer`: the store decides."""
        return not self._closed

    def begin(self, run: Run) -> None:
        """As `Queue.begin`."""
        if not self._closed:
            self._running.add(run)
            self._start(run)

    async def join(self, run: Run, job: Job) -> None:
        """As `Queue.join`. While the store is unavailable the run waits."""
        if self._closed:
            return
        self._waiting[run] = job
        async with self._claiming:
            if not self._unconfirmed:
                await self._try(run)
            elif run in self._waiting:
                # its claim would wait, and come after theirs: kick-offs that were stored before the
                # store became unavailable would get their 202 one after the other
                self._unconfirmed[run] = None

    async def fill(self) -> None:
        """As `Queue.fill`."""
        if not self._waiting or self._filling:
            return
        # also while a kick-off claims, as others may all the time
        self._filling = True
        try:
            await self._claiming.acquire()
        finally:
            self._filling = False  # a slot that becomes free from now on needs another call
        try:
            await self._fill()
        finally:
            self._claiming.release()

    async def _fill(self) -> None:
        try:
            use = await self.use(())
        except StoreUnavailable as why:
            log.warning("queue not known", reason=str(why))
            return
        if not await self._confirm():
            return
        called, self._called = self._called, {}
        if use.running + use.held < self._limits.total:
            for run in called:
                await self._try(run)
            while await self._round():
                pass

    async def _confirm(self) -> bool:
        """Claim again for the runs that may have a slot, which may be the last one. Return False
        if the store fails again.
        """
        for run in list(self._unconfirmed):
            self._unconfirmed.pop(run, None)
            await self._try(run)
            if run in self._unconfirmed:
                return False
        return True

    async def _round(self) -> bool:
        """Try the first run of each caller. Return whether one has started. Callers that VB365 has
        never accepted have one turn together.
        """
        started = False
        callers: set[str] = set()
        for run, job in list(self._waiting.items()):
            names = job.owners if job.accepted else ("",)
            if callers.isdisjoint(names):
                callers.update(names)
                started |= await self._try(run)
        return started

    async def _try(self, run: Run) -> bool:
        try:
            return await self._claim(run)
        except StoreUnavailable as why:
            log.warning("no slot claimed", job=run.id, reason=str(why))
            if run in self._waiting:
                self._unconfirmed[run] = None
            return False

    async def _claim(self, run: Run) -> bool:
        """Claim a slot, and return whether the run has started."""
        while (job := self._waiting.get(run)) is not None:
            claimed = advance(job, Assigned(self._jobs.replica), self._now())
            turn = await self._jobs.claim(job, claimed, self._limits)
            if turn is Turn.CHANGED:
                current = await self._jobs.get(run.id)
                if run not in self._waiting:
                    return False  # it left meanwhile, and the job may have another run by now
                if not self._is_own(current):
                    await self._wake(run.id)
                    return False
                if current.holder is None:
                    self._waiting[run] = current
                    continue
                claimed = current  # by an earlier call that the store did not confirm
            elif turn is Turn.NOT_YET:
                return False
            if self._waiting.pop(run, None) is None:
                return False  # it left meanwhile
            run.fence = claimed.fence
            self._running.add(run)
            self._start(run)
            return True
        return False

    def _is_own(self, job: Job | None) -> TypeGuard[Job]:
        replica = self._jobs.replica
        return (
            job is not None
            and job.phase is Phase.QUEUED
            and job.replica == replica
            and job.holder in (None, replica)
        )

    def call(self, run: Run) -> None:
        """As `Queue.call`."""
        if run in self._waiting:
            self._called[run] = None

    def look(self, run: Run, job: Job | None) -> None:
        """As `Queue.look`. The request of a claim that failed may arrive late."""
        if run in self._waiting and job is not None and job.holder == self._jobs.replica:
            self._unconfirmed[run] = None

    def leave(self, run: Run) -> None:
        """As `Queue.leave`. The store holds the slot of an aborted request by itself."""
        self._called.pop(run, None)
        self._unconfirmed.pop(run, None)
        self._waiting.pop(run, None)
        self._running.discard(run)

    def close(self) -> None:
        """As `Queue.close`."""
        self._closed = True
        self._unconfirmed.clear()
        self._waiting.clear()
