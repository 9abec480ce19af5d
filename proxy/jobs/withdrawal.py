"""Removes jobs that have not begun: rescued exports, whose requests do not wait for a slot longer
than `exports.grace` (CONTRACT §14), and jobs whose kick-off got an error because the store did not
confirm them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from proxy.core.errors import Problem
from proxy.core.events import Interrupted
from proxy.core.job import Job, Phase
from proxy.core.rescue import tentative
from proxy.jobs import events
from proxy.jobs.local_queue import Queue
from proxy.jobs.record import attempt, until_available
from proxy.jobs.run import Run, Work
from proxy.jobs.tasks import Tasks
from proxy.ports import JobStore

#: Seconds for which the requests of a withdrawn job wait for the removal of its record.
_PATIENCE = 1.0


class Withdrawal:
    """Removes jobs that have not begun. `forget` removes a run from the live ones, `note_dropped`
    keeps a list that was read before from showing the job.
    """

    def __init__(
        self,
        jobs: JobStore,
        tasks: Tasks,
        queue: Queue,
        *,
        forget: Callable[[Run], None],
        note_dropped: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._tasks = tasks
        self._queue = queue
        self._forget = forget
        self._note_dropped = note_dropped
        self._now = now
        #: The jobs without a run whose records are still to be removed.
        self._removing: set[str] = set()

    def removes(self, id: str) -> bool:
        """Whether the job's record is still to be removed. Nobody must resume the job meanwhile."""
        return id in self._removing

    def later(self, run: Run, seconds: float) -> None:
        """Withdraw the run's job unless it has a slot by then, or so long after it is queued."""
        run.patience = seconds
        self.queued(run)

    def queued(self, run: Run) -> None:
        """Begin to wait if the job is stored and waits for a slot, and a request waits for it."""
        if run.waits and run.patience is not None:
            self._tasks.spawn(self._withdraw(run, run.patience))

    async def _withdraw(self, run: Run, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if run.work is not Work.QUEUED or run.followers is None or run.followers.over:
            return
        run.followers.withdrawn = True
        self._queue.leave(run)  # it gets no slot any more
        # The requests are relayed once the record is gone, so that no list shows a job that never
        # begins; they do not wait for a store that does not respond.
        removal = self._begin(run.id, self._clear(run))
        await asyncio.wait([removal], timeout=_PATIENCE)
        self._forget(run)

    async def _clear(self, run: Run) -> None:
        """Remove the record, or suspend the job again if it was resumed."""
        job = await until_available(lambda: self._jobs.get(run.id), job=run.id)
        if job is None or job.phase is not Phase.QUEUED:
            return
        if not tentative(
            job
        ):  # it was resumed: it stays, with what is stored, for the next request
            await until_available(lambda: self._suspend(run.id), job=run.id)
        else:
            events.withdrawn(job)
            await self._remove(job)

    async def _suspend(self, id: str) -> None:
        """Suspend the job, whose claim for a slot may be on its way."""
        while (job := await self._jobs.get(id)) is not None and job.phase is Phase.QUEUED:
            if await attempt(self._jobs, job, Interrupted(), self._now) is not None:
                return

    def retract(self, run: Run, job: Job) -> None:
        """Remove the record of a job that must not begin, whether the store has it or not."""
        self._begin(job.id, self._remove(job))
        self._forget(run)

    def _begin(self, id: str, removal: Coroutine[None, None, None]) -> asyncio.Task[None]:
        self._removing.add(id)
        task = self._tasks.spawn(removal)
        task.add_done_callback(lambda _: self._removing.discard(id))
        return task

    def revoke(self, run: Run, job: Job, keep: Callable[[], Awaitable[None]]) -> None:
        """Remove a job whose kick-off gets an error, whether the store has it or not: the kick-off
        may be sent again, and nothing shows that it is the same export.

        Until then no caller is shown the job. `keep` is called instead if another replica has shown
        it.
        """
        run.attendance.decide(Problem("store-unavailable", "The job was not stored."))
        self._tasks.spawn(self._revoke(run, job, keep))

    async def _revoke(self, run: Run, job: Job, keep: Callable[[], Awaitable[None]]) -> None:
        if await until_available(lambda: self._remove_unshown(job), job=job.id):
            self._note_dropped(job.id)
            self._forget(run)
        else:
            run.attendance.withdraw()
            await keep()

    async def _remove_unshown(self, job: Job) -> bool:
        """Remove the record if there is one. Return False if another replica has shown the job."""
        while (current := await self._jobs.get(job.id)) is not None:
            if job.attended and not current.attended:
                return False
            if await self._jobs.remove(current):
                break
        return True

    async def _remove(self, job: Job) -> None:
        async def remove() -> None:
            current = await self._jobs.get(job.id)
            while current is not None and not await self._jobs.remove(current):
                current = await self._jobs.get(job.id)

        await until_available(remove, job=job.id)
