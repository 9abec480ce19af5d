"""Runs the jobs: queue, slots, cancel, resume and restart (CONTRACT §3.5, §3.6, §7, §9, §10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace

import structlog

from proxy.core.events import CancelRequested, Forgotten, Interrupted, Resumed, Shown
from proxy.core.job import Job, Phase
from proxy.core.job_request import resumed_fields
from proxy.jobs import events
from proxy.jobs.admission import Admission
from proxy.jobs.admission import Limits as Limits
from proxy.jobs.conclusion import Conclusion
from proxy.jobs.driver import Driver
from proxy.jobs.local_queue import LocalQueue, Queue
from proxy.jobs.record import Lost, Record, Removed, advance_for_caller, attempt, until_available
from proxy.jobs.reservations import Reservations
from proxy.jobs.run import Run, Work
from proxy.jobs.sealing import Sealer
from proxy.jobs.shared_queue import SharedQueue
from proxy.jobs.submission import Submission
from proxy.jobs.tasks import NotBegun, Tasks
from proxy.jobs.transfer import TransferFactory
from proxy.jobs.trust import Trust
from proxy.jobs.withdrawal import Withdrawal
from proxy.ports import ArtifactStore, Fields, JobStore, SharedJobs, StoreUnavailable

log = structlog.get_logger(__name__)

_TICK = 1.0


class Runner:
    """Owns every live job of this process. `now` is the wall clock.

    `shared` is the job store if other replicas use it too: then `replica.Member` follows what they
    do (CONTRACT §18).
    """

    def __init__(
        self,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        transfers: TransferFactory,
        limits: Limits,
        sealer: Sealer,
        trust: Trust,
        now: Callable[[], float],
        shared: SharedJobs | None = None,
    ) -> None:
        self._jobs = jobs
        self._sealer = sealer
        self._now = now
        self._runs: dict[str, Run] = {}
        #: They end with the runner.
        self.tasks = Tasks()
        self._space = Reservations(artifacts, min_free=limits.min_free, max_bytes=limits.max_bytes)
        self._replica = None if shared is None else shared.replica
        self._conclusion = Conclusion(
            jobs, artifacts, holder=transfers.holder, replica=self._replica, now=now
        )
        self._driver = Driver(
            jobs,
            transfers,
            self._conclusion,
            space=self._space,
            trust=trust,
            replica=self._replica,
        )
        self._queue = self._new_queue(limits, shared)
        drop = self._driver.note_dropped
        self.withdrawal = Withdrawal(
            jobs, self.tasks, self._queue, forget=self._forget, note_dropped=drop, now=now
        )
        self._admission = Admission(
            jobs=jobs,
            artifacts=artifacts,
            queue=self._queue,
            space=self._space,
            limits=limits,
            unaccepted=self._unaccepted,
            shared=shared,
        )
        self._submission = Submission(
            jobs,
            self._runs,
            admission=self._admission,
            queue=self._queue,
            tasks=self.tasks,
            withdrawal=self.withdrawal,
            enqueue=self._enqueue,
            forget=self._forget,
            holder=transfers.holder,
            replica=self._replica,
            now=now,
        )
        self._stopping = False

    def _new_queue(self, limits: Limits, shared: SharedJobs | None) -> Queue:
        slots, start, now = limits.slots, self._begin, self._now
        if shared is None:
            return LocalQueue(slots, start=start, now=now)
        return SharedQueue(shared, slots, start=start, wake=self.wake, now=now)

    @property
    def running(self) -> int:
        """The number of jobs that have a slot."""
        return self._queue.running

    @property
    def queued(self) -> int:
        """The number of jobs that wait for a slot."""
        return self._queue.waiting

    @property
    def promised(self) -> int:
        """The bytes that running jobs have been promised and have not stored yet."""
        return self._space.promised

    def count_others(self, promised: int) -> None:
        """Count the bytes that other replicas have promised as taken."""
        self._space.others = promised

    @property
    def stored(self) -> int:
        """The bytes of exports stored since the start."""
        return self._space.written

    async def shortage(self) -> str | None:
        """The reason why there is too little space for another export, None if there is enough.
        Raises `StoreUnavailable`.
        """
        await self._space.measure()
        return self._space.shortage()

    async def start(self) -> None:
        """Resume the jobs whose credentials were sealed. Raises `StoreUnavailable`."""
        await self._space.measure()
        self.tasks.spawn(self._tick())
        self._queue.restore(jobs := await self._jobs.list())
        for job in reversed(jobs):
            await self.resume_sealed(job)

    async def resume_sealed(self, job: Job) -> None:
        """Queue the job again if it is Suspended and its credentials can be unsealed."""
        if job.phase is not Phase.SUSPENDED or job.sealed is None:
            return
        fields = self._sealer.unseal(job.sealed)
        if fields is not None:
            await self._resume(job, fields)

    async def stop(self) -> None:
        """Stop every job, resumable: what is stored of it stays (CONTRACT §15 SIGTERM). Where
        replicas share the store, others may resume it at once.
        """
        self._stopping = True
        self._submission.stop()
        self._driver.stop()
        self._queue.close()
        await self.tasks.settle()
        stopped = list(self._runs)
        await self.tasks.cancel()
        if self._replica is not None:
            await asyncio.gather(*map(self._release, stopped))

    async def _release(self, id: str) -> None:
        try:
            job = await self._jobs.get(id)
            if job is not None and job.replica == self._replica:
                await attempt(self._jobs, job, Interrupted(), self._now)
        except StoreUnavailable as why:
            log.warning("job not handed over", job=id, reason=str(why))

    def admission(
        self, *owners: str, accepted: bool = True, size: int = 0
    ) -> AbstractAsyncContextManager[None]:
        """Reserve a place for one more job of the caller while the block runs; see `Admission`."""
        return self._admission(owners, accepted=accepted, size=size)

    def _unaccepted(self) -> list[int]:
        return [run.size for run in self._runs.values() if run.waits and not run.accepted]

    async def is_full(self) -> bool:
        """Whether another job may have to wait for a slot. Raises `StoreUnavailable`."""
        return await self._admission.is_full()

    async def submit(self, job: Job, body: bytes, run: Run) -> Job:
        """Store the job and queue or start it, or return the job that already has its
        Idempotency-Key.
        """
        if self._replica is not None:
            # without a key it is removed if the store fails to confirm it
            droppable = run.attendance.waiting or job.request.idempotency_key is None
            attended = droppable and run.followers is None
            job = replace(job, replica=self._replica, attended=attended)
        return await self._submission.submit(job, body, run)

    def run_of(self, id: str) -> Run | None:
        """The job's run in this process, None without one."""
        return self._runs.get(id)

    def drives(self, id: str) -> bool:
        """Whether the job has a run here: it waits, runs or is about to be recorded, or removed."""
        return id in self._runs or self.withdrawal.removes(id)

    def is_waiting(self, id: str) -> bool:
        """Whether the job waits for a slot."""
        run = self._runs.get(id)
        return run is not None and run.work is Work.QUEUED

    def attended(self, id: str) -> Run | None:
        """The job's run while its kick-off waits for VB365's first response, or receives it; None
        otherwise.
        """
        run = self._runs.get(id)
        return None if run is None or run.attendance.ended else run

    def may_show(self, id: str) -> bool:
        """Whether the job may be shown to callers. If True, it is not dropped later; False means
        that it is dropped or is about to be.
        """
        run = self._runs.get(id)
        if run is not None:
            run.attendance.end()
        return not self._driver.has_dropped(id) and (run is None or run.attendance.verdict is None)

    def is_attended_elsewhere(self, job: Job) -> bool:
        """Whether another replica may still drop the job: its kick-off waits there."""
        return job.attended and not job.terminal and job.replica != self._replica

    async def show(self, job: Job) -> bool:
        """As `may_show`, for a job that another replica may drop, too: the record says that it was
        shown. Raises `StoreUnavailable`.
        """
        if self.is_attended_elsewhere(job):
            try:
                await Record(self._jobs, job, self._now, any_holder=True).advance(Shown())
            except Removed:
                return False
            except Lost:
                pass  # it has ended, and is kept
        return self.may_show(job.id)

    async def check(self, id: str | None = None) -> bool:
        """Stop the run of the job, or any run, whose job another replica has ended or taken over.
        Return whether there is one. Raises `StoreUnavailable`.
        """
        known = self._runs.values() if id is None else filter(None, [self._runs.get(id)])
        gone = [run for run in tuple(known) if await self._is_gone(run)]
        for run in gone:
            await self.wake(run.id)
        return bool(gone)

    async def _is_gone(self, run: Run) -> bool:
        """Whether the record ends the run. One that was read before a step of the run does not."""
        while run.stored and self._runs.get(run.id) is run:
            before = (run.work, run.fence)
            job = await self._jobs.get(run.id)
            if (run.work, run.fence) == before:
                self._queue.look(run, job)
                return self._is_over(run, job)
        return False

    def _is_over(self, run: Run, job: Job | None) -> bool:
        if job is None or job.forgotten or job.phase is Phase.CANCELLING:
            return True
        if run.work is Work.QUEUED:
            return job.replica != self._replica
        return job.fence != run.fence or job.phase is Phase.SUSPENDED

    async def end(self, id: str, event: CancelRequested | Forgotten) -> Job | None:
        """Cancel or forget the job, and stop its run, even if the calling task is cancelled
        meanwhile. Returns and raises as `advance_for_caller`.
        """
        return await self.tasks.undivided(self._end(id, event))

    async def _end(self, id: str, event: CancelRequested | Forgotten) -> Job | None:
        changed = await advance_for_caller(self._jobs, id, event, self._now)
        if changed is not None and (changed.forgotten or not changed.terminal):
            await self.wake(id)
        return changed

    async def wake(self, id: str) -> None:
        """Act on a record that was cancelled or forgotten: stop the transfer, or clean up."""
        run = self._runs.get(id)
        if run is None:
            self.tasks.spawn(self._conclusion.conclude(id))
        elif run.work is Work.QUEUED:
            self._forget(run)
            self.tasks.spawn(self._conclusion.conclude(id))
        else:
            run.wake()

    async def resume(self, job: Job, call: Fields, *, borrowed: bool = False) -> None:
        """Queue a Suspended job again, with the credentials among the fields of an allowed call
        (CONTRACT §9).

        `borrowed`: the credentials are those of a caller who does not own the job.
        """
        if job.phase is Phase.SUSPENDED:
            fields = resumed_fields(call, job.request)
            await self._resume(job, fields, borrowed=borrowed)

    async def _resume(self, job: Job, fields: Fields, *, borrowed: bool = False) -> None:
        known = self._runs.get(job.id)
        if self._stopping or (known is not None and known.work is not Work.SUSPENDING):
            return
        if known is not None:
            self._forget(known)  # its end is recorded
        run = Run.again(job, fields, borrowed=borrowed or job.borrowed)
        resumed = Resumed(self._sealer.seal(fields), borrowed, self._replica)
        self._runs[job.id] = run
        try:
            await self.tasks.undivided(self._requeue(run, job, resumed))
        except NotBegun:  # nobody else would forget it
            self._forget(run)
            raise

    async def _requeue(self, run: Run, job: Job, resumed: Resumed) -> None:
        record = Record(self._jobs, job, self._now)
        try:
            queued = await record.advance(resumed)
        except Lost:
            self._forget(run)  # resumed, cancelled or expired meanwhile
        except (StoreUnavailable, MemoryError):
            self.tasks.spawn(self._submission.settle_resumed(run, record, resumed))
            raise
        except BaseException:
            self._forget(run)
            raise
        else:
            await self._enqueue(run, queued)

    async def _enqueue(self, run: Run, job: Job) -> None:
        self._runs[run.id] = run
        run.stored = True
        await self._queue.join(run, job)
        run.queued = run.work is Work.QUEUED
        if run.queued:
            run.unprepare()
            self.withdrawal.queued(run)
            events.queued(job, running=self.running, waiting=self.queued)

    def _begin(self, run: Run) -> None:
        """Start the run, which has a slot. Without memory for its task, a later tick starts it."""
        run.work = Work.STARTING
        with suppress(MemoryError):
            run.task = self.tasks.spawn(self._drive(run), f"job {run.id}")

    def call(self, id: str) -> None:
        """Note that it may be the job's turn at the next `fill_slots`."""
        run = self._runs.get(id)
        if run is not None:
            self._queue.call(run)

    async def fill_slots(self) -> None:
        """Start the jobs whose turn it is."""
        await self._queue.fill()

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.id) is run:
            run.unprepare()
            del self._runs[run.id]
            self._space.release(run.id)
        self._queue.leave(run)
        run.finish()

    async def _drive(self, run: Run) -> None:
        try:
            await self._driver.drive(run)
        finally:
            self._forget(run)
            await self._queue.fill()
        if self._replica is None:  # `Member` resumes those of replicas
            job = await until_available(lambda: self._jobs.get(run.id), job=run.id)
            if job is not None:
                await self.resume_sealed(job)

    async def _tick(self) -> None:
        """Measure the free space while jobs run, free the slots whose hold is over, and start the
        runs for which there was no memory.
        """
        while True:
            await asyncio.sleep(_TICK)
            try:
                for run in [each for each in self._runs.values() if each.taskless]:
                    self._begin(run)
                await self._queue.fill()
                if self.running:
                    await self._space.measure()
            except StoreUnavailable as why:
                log.warning("free space not known", reason=str(why))
            except MemoryError:
                continue
