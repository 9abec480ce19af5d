"""Where the runs of a process wait for a slot, if it shares its jobs with no other process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from proxy.core.job import Job
from proxy.jobs.queue import Slots
from proxy.jobs.run import Run
from proxy.ports import SlotLimits, SlotUse


class Queue(Protocol):
    """Where the runs of this process wait for a slot (CONTRACT §3.6)."""

    @property
    def running(self) -> int:
        """The number of runs of this process that have a slot."""

    @property
    def waiting(self) -> int:
        """The number of runs of this process that wait."""

    async def use(self, owners: Sequence[str]) -> SlotUse:
        """Count slots and waiting jobs, of all processes. Raises `StoreUnavailable`."""

    def restore(self, jobs: Iterable[Job]) -> None:
        """Restore the order of callers and the slots that are held from the records."""

    def offer(self, run: Run, job: Job) -> bool:
        """Return whether the new job may be stored with a slot, which the run then has until it
        leaves. Call `begin` once it is stored.
        """

    def begin(self, run: Run) -> None:
        """Start the run, whose job was stored with a slot."""

    async def join(self, run: Run, job: Job) -> None:
        """Put the run at the end of its caller's queue, and start the runs whose turn it is."""

    async def fill(self) -> None:
        """Start the runs whose turn it is."""

    def call(self, run: Run) -> None:
        """Note that it may be the run's turn at the next `fill`."""

    def look(self, run: Run, job: Job | None) -> None:
        """Look at the record of a run that waits: at the next `fill` it starts if it has a slot."""

    def leave(self, run: Run) -> None:
        """Take the run out of the queue or its slot. Idempotent."""

    def close(self) -> None:
        """Empty the queue: no run starts any more."""


class LocalQueue:
    """The queue of a single process: `Slots` with a clock. It never suspends.

    `start` is called for each run that has got a slot; `now` is the wall clock.
    """

    def __init__(
        self, limits: SlotLimits, *, start: Callable[[Run], None], now: Callable[[], float]
    ) -> None:
        self._slots: Slots[Run] = Slots(total=limits.total, per_caller=limits.per_caller)
        self._hold = limits.hold
        self._start = start
        self._now = now
        self._closed = False

    @property
    def running(self) -> int:
        """As `Queue.running`."""
        return self._slots.running

    @property
    def waiting(self) -> int:
        """As `Queue.waiting`."""
        return self._slots.waiting

    async def use(self, owners: Sequence[str]) -> SlotUse:
        """As `Queue.use`."""
        self._slots.expire(self._now())
        return SlotUse(
            running=self._slots.running,
            waiting=self._slots.waiting,
            held=self._slots.held(),
            held_by_caller=self._slots.held(*owners),
        )

    def restore(self, jobs: Iterable[Job]) -> None:
        """As `Queue.restore`."""
        for job in sorted(jobs, key=lambda job: job.started or 0):
            if job.started is not None:
                self._slots.started(*job.owners, accepted=job.accepted)
            if job.abandoned is None:
                continue
            now = self._now()
            # the clock may have been set back since
            until = min(job.abandoned, now) + self._hold
            if until > now:
                self._slots.hold(until, *job.owners)

    def offer(self, run: Run, job: Job) -> bool:
        """As `Queue.offer`."""
        self._slots.expire(self._now())
        return not self._closed and self._slots.take(run, *job.owners, accepted=job.accepted)

    def begin(self, run: Run) -> None:
        """As `Queue.begin`."""
        if not self._closed:
            self._start(run)

    async def join(self, run: Run, job: Job) -> None:
        """As `Queue.join`."""
        self._slots.wait(run, *job.owners, accepted=job.accepted)
        await self.fill()

    async def fill(self) -> None:
        """As `Queue.fill`."""
        self._slots.expire(self._now())
        while not self._closed and (run := self._slots.next()) is not None:
            self._start(run)

    def call(self, run: Run) -> None:
        """Do nothing: this queue knows."""

    def look(self, run: Run, job: Job | None) -> None:
        """Do nothing: this queue knows."""

    def leave(self, run: Run) -> None:
        """As `Queue.leave`. VB365 may continue to work on a request that was aborted before its
        response: then the slot is held (CONTRACT §3.5).
        """
        self._slots.leave(run, hold_until=self._now() + self._hold if run.posting else None)

    def close(self) -> None:
        """As `Queue.close`."""
        self._closed = True
        self._slots.clear()
