"""A new job is stored, and its run is queued or started (CONTRACT §3.6).

A job for which a slot is free is stored with it, as Generating: one commit takes the place of the
two or three of a job that waits, and the kick-off gets its 202 after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, MutableMapping

from proxy.core.events import Assigned, Claimed, Resumed
from proxy.core.job import Job, Phase
from proxy.core.transitions import advance
from proxy.jobs import events
from proxy.jobs.admission import Admission
from proxy.jobs.local_queue import Queue
from proxy.jobs.record import Lost, Record, until_available
from proxy.jobs.run import Run
from proxy.jobs.tasks import Tasks
from proxy.jobs.withdrawal import Withdrawal
from proxy.ports import JobStore, StoreUnavailable


class Submission:
    """Stores new jobs. `runs` are the live ones by job id; `holder` names the runner in the
    records, and `replica` this process if others share the store. `enqueue` queues a run, `forget`
    removes it from the live ones. `now` is the wall clock.
    """

    def __init__(
        self,
        jobs: JobStore,
        runs: MutableMapping[str, Run],
        *,
        admission: Admission,
        queue: Queue,
        tasks: Tasks,
        withdrawal: Withdrawal,
        enqueue: Callable[[Run, Job], Awaitable[None]],
        forget: Callable[[Run], None],
        holder: str,
        replica: str | None,
        now: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._runs = runs
        self._admission = admission
        self._queue = queue
        self._tasks = tasks
        self._withdrawal = withdrawal
        self._enqueue = enqueue
        self._forget = forget
        self._holder = holder
        self._replica = replica
        self._now = now
        self._stopping = False

    def stop(self) -> None:
        """Queue no job from now on whose storing was not confirmed."""
        self._stopping = True

    async def submit(self, job: Job, body: bytes, run: Run) -> Job:
        """Store the job and queue or start its run. Return the job as it is stored, or the one
        that already has its Idempotency-Key.
        """
        return await self._tasks.undivided(self._submit(job, body, run))

    async def _submit(self, job: Job, body: bytes, run: Run) -> Job:
        # a request that finds the record must find the run too, before `add` returns
        self._runs[run.id] = run
        run.size = len(body)
        started = self._started(job, run)
        try:
            stored = await self._admission.add(job, body, started)
        except (StoreUnavailable, MemoryError):
            self._settle_later(job, run, started)
            raise
        except BaseException:
            self._unregister(run)
            raise
        if stored.id != job.id:
            self._unregister(run)
            return stored
        events.accepted(job, len(body))
        self._admission.take(job, len(body))
        if stored.phase is Phase.QUEUED:
            await self._enqueue(run, stored)
        else:
            events.changed(job, stored)
            run.body = body
            self._start(run, stored)
        return stored

    def _started(self, job: Job, run: Run) -> Job | None:
        """The new job with a slot, None if it is not to be stored with one."""
        if not self._queue.offer(run, job):
            return None
        now = self._now()
        if self._replica is not None:
            job = advance(job, Assigned(self._replica), now)
        return advance(job, Claimed(self._holder), now)

    def _start(self, run: Run, job: Job) -> None:
        """Start the run of a job that was stored with a slot."""
        run.started, run.fence, run.stored = job, job.fence, True
        self._queue.begin(run)

    def _unregister(self, run: Run) -> None:
        run.unprepare()
        if self._runs.get(run.id) is run:
            del self._runs[run.id]
        self._queue.leave(run)

    def _settle_later(self, job: Job, run: Run, started: Job | None) -> None:
        """Settle a job that the store may have although it reported a failure.

        The caller gets an error and may send the export again. With an Idempotency-Key the next
        kick-off gets this job (CONTRACT §8); without one it would be a second generation. The body
        is not kept until the store is back: no budget counts it by then.
        """

        def confirm(_: Job) -> None:
            events.accepted(job, run.size)

        def adopt() -> Coroutine[None, None, None]:
            return self.adopt(run, job, confirm, started)

        if run.followers is not None:  # its request is relayed: it must not run as well
            self._withdrawal.retract(run, job)
        elif job.request.idempotency_key is None:
            self._withdrawal.revoke(run, job, adopt)
        else:
            self._tasks.spawn(adopt())

    async def adopt(
        self, run: Run, job: Job, confirm: Callable[[Job], None], started: Job | None = None
    ) -> None:
        """Run a new job if the store has queued it after all, or stored it as `started`, and failed
        to confirm that. `confirm` is called then, with the job.
        """
        current = await until_available(lambda: self._jobs.get(job.id), job=job.id)
        if current is None or self._stopping:
            self._forget(run)
        elif current.phase is Phase.QUEUED and current.replica == self._replica:
            confirm(current)
            run.attendance.end()
            await self._enqueue(run, current)
        elif started is not None and _is_same_start(current, started):
            confirm(current)
            events.changed(job, current)
            run.attendance.end()
            self._start(run, current)
        else:
            self._forget(run)

    async def settle_resumed(self, run: Run, record: Record, resumed: Resumed) -> None:
        """Repeat a resumption that the store did not confirm, and queue the run.

        A shared store may execute the first request later than any read: the job would be Queued
        without a run, and stop the queue. After another change of the record it no longer applies.
        """
        try:
            job = await record.settle(resumed)
        except Lost:
            self._forget(run)
        except BaseException:
            self._forget(run)
            raise
        else:
            if job.replica == self._replica:
                await self._enqueue(run, job)
            else:
                self._forget(run)  # another replica has resumed it


def _is_same_start(job: Job, started: Job) -> bool:
    """Whether the job still has the slot with which it was stored."""
    return (job.phase, job.holder, job.fence) == (started.phase, started.holder, started.fence)
