"""Whether one more job is admitted: quota, queue, records, free space (CONTRACT §3.5). Errors state
the numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.core.amounts import plural
from proxy.core.errors import Problem
from proxy.core.job import Job
from proxy.jobs.local_queue import Queue
from proxy.jobs.reservations import Reservations
from proxy.ports import ArtifactStore, Bounds, Counts, JobStore, SharedJobs, SlotLimits, SlotUse

_RETRY_AFTER = 30
#: The number of records to remove at a time: the store syncs many changes at once.
_TOGETHER = 64
#: Owners, whether VB365 accepted the caller, and the bytes of the body.
_Place = tuple[tuple[str, ...], bool, int]
#: How often a job is added again, if other replicas took its place and gave it up meanwhile.
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may run, wait and be stored (CONTRACT §15). Sizes are in bytes, times in seconds."""

    max_running: int
    max_queued: int
    max_per_caller: int
    min_free: int
    max_bytes: int | None
    max_running_per_caller: int = 0
    cancel_hold: float = 0.0
    max_records: int = 20_000
    max_records_per_caller: int = 1_000
    #: Bytes of the bodies that wait in the store, of callers that VB365 never accepted.
    unaccepted_bodies: int = 64 << 20

    @property
    def slots(self) -> SlotLimits:
        """The limits of running jobs."""
        return SlotLimits(
            total=self.max_running, per_caller=self.max_running_per_caller, hold=self.cancel_hold
        )

    @property
    def bounds(self) -> Bounds:
        """The limits of the numbers of jobs, for a store that replicas share."""
        return Bounds(
            per_caller=self.max_per_caller,
            queued=self.max_queued,
            records_per_caller=self.max_records_per_caller,
            records=self.max_records,
            slots=self.slots,
        )


def unaccepted_share(max_queued: int) -> int:
    """How many of the jobs that wait, or are suspended, may be those of callers that VB365 never
    accepted (CONTRACT §3.5).
    """
    return max(1, max_queued // 4)


class UnacceptedCallers(Problem):
    """The share of the queue for callers that VB365 never accepted is taken."""


def _count_of(owners: Sequence[str], jobs: Sequence[Sequence[str]]) -> int:
    """How many of the jobs are the caller's. They are given by their owners."""
    return sum(not set(owners).isdisjoint(others) for others in jobs)


class Admission:
    """Admits kick-offs one by one. A job that is about to be added already counts.

    Where replicas share the store (`shared`), the store itself decides in the call that adds the
    job; the checks here then choose the text of the error, or make space. `unaccepted` returns the
    sizes of the bodies of the jobs that wait in this process and whose callers VB365 never
    accepted.
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        queue: Queue,
        space: Reservations,
        limits: Limits,
        unaccepted: Callable[[], Sequence[int]],
        shared: SharedJobs | None = None,
    ) -> None:
        self._jobs = jobs
        self._shared = shared
        self._artifacts = artifacts
        self._queue = queue
        self._space = space
        self._limits = limits
        self._unaccepted = unaccepted
        #: The jobs that are about to be added.
        self._reserved: list[_Place] = []
        #: Those that have been added since, and whose blocks have not ended.
        self._taken: list[_Place] = []
        #: Those that are being added, and how many of them have a slot already.
        self._adding: list[Job] = []
        self._starting = 0

    @asynccontextmanager
    async def __call__(
        self, owners: Sequence[str], *, accepted: bool = True, size: int = 0
    ) -> AsyncIterator[None]:
        """Reserve a place for one more job of the caller while the block runs.

        `owners` are all hashes of the caller; a job that has several of them counts once. Without
        `accepted` only a share of the queue is for the job, whose body has `size` bytes. Raises
        `Problem` 429 or 503, and `StoreUnavailable`.
        """
        await self._space.refresh()
        if self._shared is None or self._space.shortage() is not None:
            use = await self._check(owners)
            if not accepted:
                self._check_share(use, size)
        elif not accepted and self._exceeded(0, size):
            self._check_share(await self._queue.use(owners), size)
        # no await since the checks: two kick-offs never get the last place
        place = (tuple(owners), accepted, size)
        self._reserved.append(place)
        try:
            yield
        finally:
            # the places are equal: it does not matter whose is removed
            (self._taken if place in self._taken else self._reserved).remove(place)

    def take(self, job: Job, size: int) -> None:
        """Note that the job, whose body has `size` bytes, has been added: from now on it counts as
        a stored job.
        """
        places = [each for each in self._reserved if each[0] == job.owners]
        if places:
            # not another one of the caller, whose block would then not find its own
            place = max(places, key=lambda each: each[1:] == (job.accepted, size))
            self._reserved.remove(place)
            self._taken.append(place)

    @property
    def _arriving(self) -> Sequence[Sequence[str]]:
        """The owners of the jobs that are about to be added, unless the store counts them."""
        return [owners for owners, *_ in self._reserved] if self._shared is None else ()

    async def is_full(self) -> bool:
        """Whether another job may have to wait for a slot. Raises `StoreUnavailable`."""
        use = await self._queue.use(())
        taken = use.running + use.held + use.waiting + len(self._arriving) - self._starting
        return taken >= self._limits.max_running or self._limits.max_running_per_caller > 0

    async def _check(self, owners: Sequence[str]) -> SlotUse:
        """Raise `Problem` unless one more job fits into the space as it was measured last."""
        counts, unstored = await self._make_space(owners)
        use = await self._queue.use(owners)
        self._check_quota(counts.live + _count_of(owners, unstored), use.held_by_caller)
        self._check_queue(use)
        self._check_records(owners, counts, unstored)
        if (shortage := self._space.shortage()) is not None:
            raise Problem(
                "capacity-exhausted", f"Not enough space: {shortage}.", retry_after=_RETRY_AFTER
            )
        return use

    async def add(self, job: Job, body: bytes, started: Job | None) -> Job:
        """Store the job for which a place is reserved; see `JobStore.add`. `started` is the job
        with a slot, which is stored instead; where replicas share the store, if it has a free one.

        Raises `Problem` if the job would exceed the bounds that all replicas share.
        """
        if self._shared is None:
            return await self._add_alone(job, body, started)
        for _ in range(_TRIES):
            stored = await self._shared.add_within(job, body, self._limits.bounds, started)
            if stored is not None:
                return stored
            await self._space.measure()
            await self._check(job.owners)
        detail = "Too many exports are being started at the same time. Try again later."
        raise Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER)

    async def _add_alone(self, job: Job, body: bytes, started: Job | None) -> Job:
        self._adding.append(job)
        self._starting += started is not None
        try:
            return await self._jobs.add(started or job, body)
        finally:
            self._adding.remove(job)
            self._starting -= started is not None

    def _check_quota(self, live: int, held: int) -> None:
        unfinished = live + held
        if unfinished < self._limits.max_per_caller:
            return
        detail = (
            f"You already have {plural(unfinished, 'unfinished export')} (exports.max_per_caller)."
        )
        if held:
            cancelled = plural(held, "cancelled one")
            detail += (
                f" That includes {cancelled} that VB365 may still work on (exports.cancel_hold)."
            )
        raise Problem("quota-exceeded", detail, retry_after=_RETRY_AFTER)

    def _check_queue(self, use: SlotUse) -> None:
        waiting = use.waiting + len(self._arriving)
        if waiting >= self._limits.max_queued + self._free(use):
            verb = "is" if waiting == 1 else "are"
            detail = f"{plural(waiting, 'export')} {verb} waiting (exports.max_queued)."
            raise Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER)

    def _check_share(self, use: SlotUse, size: int) -> None:
        if (exceeded := self._exceeded(self._free(use), size)) is not None:
            raise UnacceptedCallers("capacity-exhausted", exceeded, retry_after=_RETRY_AFTER)

    def _exceeded(self, free: int, size: int) -> str | None:
        """What one more job of a caller that VB365 never accepted would exceed with `free` slots,
        None if it would not.
        """
        share = unaccepted_share(self._limits.max_queued)
        waiting, bodies = self._queue.waiting + len(self._reserved), self._limits.unaccepted_bodies
        # as many bodies of an equal part each do not exceed the limit, whoever sent the others
        if waiting < free or (waiting < share + free and size <= bodies // share):
            return None
        sizes = [*self._unaccepted(), *(each for _, known, each in self._reserved if not known)]
        if len(sizes) >= share + free:
            limit = "a quarter of exports.max_queued"
        elif sizes and sum(sizes) + size > bodies and size > bodies // share:
            limit = "as much as exports.body_memory"
        else:
            return None
        return (
            f"{plural(len(sizes), 'export')} of callers that VB365 has not confirmed yet wait "
            f"already ({limit})."
        )

    def _free(self, use: SlotUse) -> int:
        """The slots for the jobs that wait or are about to be added. Some of these have one."""
        return max(0, self._limits.max_running - use.running - use.held + self._starting)

    def _check_records(
        self, owners: Sequence[str], counts: Counts, unstored: Sequence[Sequence[str]]
    ) -> None:
        mine, all_ = self._excess(owners, counts, unstored)
        kept = "unfinished or with a file that can still be downloaded"
        if mine > 0:
            detail = (
                f"You already have {plural(self._limits.max_records_per_caller, 'export')} "
                f"on record, {kept} (exports.max_records_per_caller). "
                "Delete those that you do not need any more."
            )
            raise Problem("quota-exceeded", detail, retry_after=_RETRY_AFTER)
        if all_ > 0:
            detail = (
                f"{plural(self._limits.max_records, 'export')} are on record, {kept} "
                "(storage.max_records)."
            )
            raise Problem("capacity-exhausted", detail, retry_after=_RETRY_AFTER)

    async def _make_space(self, owners: Sequence[str]) -> tuple[Counts, Sequence[Sequence[str]]]:
        """Remove ended records without a file, the oldest first, until one more record fits.
        Returns the counts afterwards, and what `_unstored` returns.
        """
        while True:
            counts = await self._jobs.counts(owners)
            unstored = await self._unstored()
            mine, all_ = self._excess(owners, counts, unstored)
            scope, excess = (owners, mine) if mine > 0 else (None, all_)
            found = await self._jobs.spent(scope, min(excess, _TOGETHER)) if excess > 0 else ()
            if not found:
                return counts, unstored
            await asyncio.gather(*map(self._remove, found))

    async def _unstored(self) -> Sequence[Sequence[str]]:
        """The owners of the jobs that are about to be added and that the store does not count. It
        counts a job a moment before `take` is called.
        """
        unstored = list(self._arriving)
        for job in self._adding:
            if job.owners in unstored and await self._jobs.get(job.id) is not None:
                unstored.remove(job.owners)
        return unstored

    def _excess(
        self, owners: Sequence[str], counts: Counts, unstored: Sequence[Sequence[str]]
    ) -> tuple[int, int]:
        """By how many one more record would exceed the limits, of the caller and of all callers."""
        mine = (
            counts.records + _count_of(owners, unstored) + 1 - self._limits.max_records_per_caller
        )
        return mine, counts.total + len(unstored) + 1 - self._limits.max_records

    async def _remove(self, job: Job) -> None:
        await self._artifacts.remove(job.id)  # a file that could not be removed when the job ended
        await self._jobs.remove(job)
